/* decl.c - the headers alone, twice, as declarations; before anything else is included. */
#include "mla.h"
#include "mla.h"

#include "checkpoint.h"
#include "checkpoint.h"

mla_result decl_uses_the_types(mla_model **m, const mla_config *c, const mla_weights *w, mla_error *e);
mla_result decl_uses_the_types(mla_model **m, const mla_config *c, const mla_weights *w, mla_error *e) {
    return mla_model_create(m, c, w, NULL, e);
}
