/* gguf.h - reads and writes GGUF files, and opens those of this family as the mla_config and mla_weights of mla.h.

USE
   checkpoint.h includes this and its checkpoint_open takes GGUF files, too: nothing else is needed to run one. For the
   files themselves include it after checkpoint.h or instead of it; in the file with CHECKPOINT_IMPLEMENTATION its code
   comes along.

   gguf *g;   size_t length;   const char *token;
   if (gguf_open(&g, "V2-Lite-Q4_K_M.gguf", &error)) puts(error.text);
   const gguf_key *k = gguf_find_key(g, "tokenizer.ggml.tokens");
   for (gguf_strings s = gguf_strings_of(k); (token = gguf_next(&s, &length)) != NULL;) ...
   gguf_close(g);

   gguf_writer *w;
   gguf_create(&w, "new.gguf", &error);
   gguf_put_text(w, "general.architecture", "deepseek2");   gguf_put_integer(w, "deepseek2.block_count", GGUF_U32, 27);
   gguf_put_tensor(w, "output_norm.weight", 0, 1, dims);    ...  (all keys and tensors, then their data in that order)
   gguf_put_data(w, norm, sizeof norm);                     ...
   gguf_finish(w, &error);

FILES          Version 2 or 3, little-endian; one file or a set NAME-00001-of-00007.gguf, opened by any part.
STRICT         As in checkpoint.h: what is not understood is refused, and the message names file, key or tensor. Every
               count, length and offset is checked against the file before it is used.
MODELS         deepseek2, deepseek32, glm-dsa, minicpm3, mistral4, hy_v4, kimi-linear, bailingmoe3; weights of the types
               that mla_dtype has. kv_b whole, or k_b and v_b. Where a file does not say what its model needs, the
               comment at >>gguf-config says what is taken for it.
MEMORY         Files are mapped and weights used where they lie. Keys and tensors take some 100 bytes each and the
               strings in arrays none.

CONTENTS       >>gguf >>gguf-writer (the API)   then >>gguf-types >>gguf-reader >>gguf-split >>gguf-config
               >>gguf-weights >>gguf-open >>gguf-writing
   SPDX-License-Identifier: MIT */

#include "checkpoint.h" /* whose implementation includes this: first, therefore */

#ifndef CHECKPOINT_GGUF_H
#define CHECKPOINT_GGUF_H

#ifdef __cplusplus
extern "C" {
#endif

/* ---- >>gguf ------------------------------------------------------------------------------------------------------ */

typedef enum gguf_type { /* of values; the numbers of the file */
                         GGUF_U8 = 0,
                         GGUF_I8,
                         GGUF_U16,
                         GGUF_I16,
                         GGUF_U32,
                         GGUF_I32,
                         GGUF_F32,
                         GGUF_BOOL,
                         GGUF_STRING,
                         GGUF_ARRAY,
                         GGUF_U64,
                         GGUF_I64,
                         GGUF_F64,
                         GGUF_TYPE_COUNT
} gguf_type;

typedef struct gguf_key {
    const char *name;
    gguf_type type;   /* of the value, or of an array's elements: never GGUF_ARRAY */
    int is_array;     /* of one dimension */
    size_t count;     /* elements; 1 if it is no array */
    const void *data; /* little-endian, at any address; a string is a u64 length and its bytes */
    size_t bytes;
} gguf_key;

typedef struct gguf_tensor {
    const char *name, *file; /* file: for messages */
    int type;                /* the number of the file; gguf_type_name says its name */
    int dtype;               /* the mla_dtype with the same bytes; -1: there is none */
    int n_dims;
    int64_t dims[4]; /* the contiguous one (columns) first; 1 from n_dims on */
    const void *data;
    size_t bytes;
} gguf_tensor;

typedef struct gguf gguf;

/* A file, or a whole split set by any of its parts; then the keys are those of the first. Errors: ARGUMENT (cannot be
   read), WEIGHTS (not a GGUF file, damaged, parts that do not belong together), UNSUPPORTED (another version or byte
   order, a tensor of a type that has no size here), MEMORY. err may be NULL. */
CHECKPOINT_API mla_result gguf_open(gguf **out, const char *path, mla_error *err);
/* The same on a buffer with one whole file, which must outlive g; label stands for the file's name in messages. */
CHECKPOINT_API mla_result gguf_parse(gguf **out, const void *data, size_t size, const char *label, mla_error *err);
CHECKPOINT_API void gguf_close(gguf *g);
/* *out: malloc'd, the GGUF file that path means: itself if it is a file, or the one in a directory without
   model.safetensors or its index (of a split set the first part; files that begin with mmproj are passed over); NULL if
   there is none. Errors: ARGUMENT (several), MEMORY. */
CHECKPOINT_API mla_result gguf_locate(char **out, const char *path, mla_error *err);

CHECKPOINT_API size_t gguf_parts(const gguf *g); /* files */
CHECKPOINT_API size_t gguf_key_count(const gguf *g);
CHECKPOINT_API const gguf_key *gguf_key_at(const gguf *g, size_t i); /* in order of name; NULL past the end */
CHECKPOINT_API const gguf_key *gguf_find_key(const gguf *g, const char *name);
CHECKPOINT_API size_t gguf_tensor_count(const gguf *g);
CHECKPOINT_API const gguf_tensor *gguf_tensor_at(const gguf *g, size_t i); /* in order of name */
CHECKPOINT_API const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name);

/* Element i of a key. They take NULL and other types: then there is nothing there (0, NULL). */
CHECKPOINT_API int gguf_integer(const gguf_key *k, size_t i, int64_t *out); /* 1: an integer or bool, and it fits */
CHECKPOINT_API int gguf_number(const gguf_key *k, size_t i, double *out);   /* 1: a float or an integer */
CHECKPOINT_API const char *gguf_string(const gguf_key *k,
                                       size_t *length); /* UTF-8 without NUL, and without at its end */

/* The strings of an array one after the other; gguf_next: NULL at the end. */
typedef struct gguf_strings {
    const unsigned char *at;
    size_t left;
} gguf_strings;
CHECKPOINT_API gguf_strings gguf_strings_of(const gguf_key *k);
CHECKPOINT_API const char *gguf_next(gguf_strings *s, size_t *length);

CHECKPOINT_API const char *gguf_type_name(int type); /* of a tensor: "Q4_K"; "?": not known */
CHECKPOINT_API int gguf_type_of(mla_dtype t);        /* -1: GGUF has none */

/* ---- >>gguf-writer ----------------------------------------------------------------------------------------------- */
/* Writes PATH.partial and renames it when all is there and on the disk, so that PATH is never half a file. The first
   error is kept and what follows does nothing; gguf_finish reports it. Keys and tensors come first, then the data of
   all tensors, in the order in which they were put, in pieces of any size. Version 3; general.alignment is 32. */

typedef struct gguf_writer gguf_writer;

CHECKPOINT_API mla_result gguf_create(gguf_writer **out, const char *path, mla_error *err);
CHECKPOINT_API void gguf_put_integer(gguf_writer *w, const char *key, gguf_type type, int64_t value); /* or bool */
CHECKPOINT_API void gguf_put_number(gguf_writer *w, const char *key, double value);                   /* F32 */
CHECKPOINT_API void gguf_put_text(gguf_writer *w, const char *key, const char *text);
/* count elements of a type that is not a string, as they are in memory. */
CHECKPOINT_API void gguf_put_array(gguf_writer *w, const char *key, gguf_type type, const void *elements, size_t count);
/* An array of count strings, which follow, each by gguf_put_string. */
CHECKPOINT_API void gguf_put_strings(gguf_writer *w, const char *key, size_t count);
CHECKPOINT_API void gguf_put_string(gguf_writer *w, const char *text, size_t length);
CHECKPOINT_API void gguf_put_key(gguf_writer *w, const gguf_key *k); /* as it is in another file */
/* type: gguf_type_of; dims [n_dims], 1 to 4, the contiguous one first, a multiple of the type's block. */
CHECKPOINT_API void gguf_put_tensor(gguf_writer *w, const char *name, int type, int n_dims, const int64_t *dims);
CHECKPOINT_API void gguf_put_data(gguf_writer *w, const void *data, size_t bytes);
CHECKPOINT_API int gguf_failed(const gguf_writer *w); /* 1: gguf_finish will fail, whatever else is put */
/* Frees w in any case. ARGUMENT: it could not be written; the data was too short or too long; a bad name or type. Then,
   and with gguf_abandon, no file is left. */
CHECKPOINT_API mla_result gguf_finish(gguf_writer *w, mla_error *err);
CHECKPOINT_API void gguf_abandon(gguf_writer *w); /* NULL: nothing happens */

#ifdef __cplusplus
}
#endif
#endif /* CHECKPOINT_GGUF_H */

/* ================================================================================================================== */
#if defined CHECKPOINT_IMPLEMENTATION && !defined CHECKPOINT_GGUF_IMPLEMENTED
#define CHECKPOINT_GGUF_IMPLEMENTED

#if !defined CHECKPOINT_NO_MMAP && !defined _WIN32
#include <dirent.h>
#endif

/* ---- >>gguf-types ------------------------------------------------------------------------------------------------ */

typedef struct gguf__format {
    int type, block, bytes, dtype;
    const char *name;
} gguf__format;

/* Those with dtype -1 have a size, so that files can have them where nobody reads them. */
static const gguf__format gguf__formats[] = {
    {0, 1, 4, MLA_F32, "F32"},
    {1, 1, 2, MLA_F16, "F16"},
    {30, 1, 2, MLA_BF16, "BF16"},
    {2, 32, 18, MLA_Q4, "Q4_0"},
    {3, 32, 20, MLA_Q4_1, "Q4_1"},
    {6, 32, 22, MLA_Q5_0, "Q5_0"},
    {7, 32, 24, MLA_Q5_1, "Q5_1"},
    {8, 32, 34, MLA_Q8, "Q8_0"},
    {10, 256, 84, MLA_Q2_K, "Q2_K"},
    {11, 256, 110, MLA_Q3_K, "Q3_K"},
    {12, 256, 144, MLA_Q4_K, "Q4_K"},
    {13, 256, 176, MLA_Q5_K, "Q5_K"},
    {14, 256, 210, MLA_Q6_K, "Q6_K"},
    {16, 256, 66, -1, "IQ2_XXS"},
    {17, 256, 74, -1, "IQ2_XS"},
    {18, 256, 98, -1, "IQ3_XXS"},
    {19, 256, 50, -1, "IQ1_S"},
    {20, 32, 18, MLA_IQ4_NL, "IQ4_NL"},
    {21, 256, 110, -1, "IQ3_S"},
    {22, 256, 82, -1, "IQ2_S"},
    {23, 256, 136, MLA_IQ4_XS, "IQ4_XS"},
    {24, 1, 1, -1, "I8"},
    {25, 1, 2, -1, "I16"},
    {26, 1, 4, -1, "I32"},
    {27, 1, 8, -1, "I64"},
    {28, 1, 8, -1, "F64"},
    {29, 256, 56, -1, "IQ1_M"},
    {34, 256, 54, -1, "TQ1_0"},
    {35, 256, 66, -1, "TQ2_0"},
    {39, 32, 17, MLA_MXFP4, "MXFP4"},
    {40, 64, 36, MLA_NVFP4, "NVFP4"},
};
enum { GGUF__FORMATS = sizeof gguf__formats / sizeof *gguf__formats };

static const unsigned char gguf__sizes[GGUF_TYPE_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

static const gguf__format *gguf__format_of(uint32_t type) {
    for (int i = 0; i < GGUF__FORMATS; i++)
        if (type == (uint32_t)gguf__formats[i].type) return &gguf__formats[i];
    return NULL;
}

/* Why a type that is not in the table is none. */
static const char *gguf__foreign(uint32_t type) {
    if ((type >= 133 && type <= 158) || (type >= 202 && type < 1000)) return "one of ik_llama.cpp's own";
    if (type == 4 || type == 5 || (type >= 31 && type <= 33) || (type >= 36 && type <= 38))
        return "which ggml has removed";
    if (type == 9 || type == 15) return "which is for activations only";
    return type == 41 ? "Q1_0" : type == 42 ? "Q2_0" : "which is not known";
}

const char *gguf_type_name(int type) {
    const gguf__format *f = type >= 0 ? gguf__format_of((uint32_t)type) : NULL;
    return f ? f->name : "?";
}

int gguf_type_of(mla_dtype t) {
    for (int i = 0; i < GGUF__FORMATS; i++)
        if (gguf__formats[i].dtype == (int)t) return gguf__formats[i].type;
    return -1;
}

/* Bytes of a tensor, 0 if that is no size: no multiple of the block, nothing, or too much. */
static size_t gguf__bytes(const gguf__format *f, const int64_t *dims, int n_dims) {
    size_t bytes = (size_t)f->bytes;
    for (int i = 0; i < n_dims; i++) {
        const uint64_t d = (uint64_t)(i ? dims[i] : dims[0] / f->block);
        if (dims[i] <= 0 || (i == 0 && dims[0] % f->block) || d > SIZE_MAX / 2 / bytes) return 0;
        bytes *= (size_t)d;
    }
    return bytes;
}

/* ---- >>gguf-reader ----------------------------------------------------------------------------------------------- */
/* Names are first where they lie in the file, a u64 length before them, and then all copied into one block, where each
   ends with NUL. */

typedef struct gguf__part {
    char file[64]; /* its name, for messages */
    ck__file map;  /* if opened by path */
    char *names;
} gguf__part;

struct gguf {
    gguf__part *parts;
    size_t n_parts;
    gguf_key *keys; /* of the first part */
    size_t n_keys;
    gguf_tensor *tensors;
    size_t n_tensors;
};

typedef struct gguf__reader {
    const unsigned char *data;
    size_t size, at;
    gguf__part *part;
    gguf_key *keys;
    gguf_tensor *tensors;
    size_t n_keys, n_tensors, alignment;
    mla_result rc; /* the first error; nothing is done after it */
    mla_error *err;
} gguf__reader;

enum { GGUF__LONGEST = 65535 }; /* name */

static uint64_t gguf__little(const void *data, size_t bytes) {
    uint64_t v = 0;
    for (size_t i = 0; i < bytes; i++) v |= (uint64_t)((const unsigned char *)data)[i] << (8 * i);
    return v;
}

static uint64_t gguf__scalar(gguf__reader *r, size_t bytes, const char *what) {
    if (r->rc) return 0;
    if (r->size - r->at < bytes) {
        r->rc =
            ck__fail(r->err, MLA_ERR_WEIGHTS, "%s: the file ends at byte %zu, within %s", r->part->file, r->size, what);
        return 0;
    }
    r->at += bytes;
    return gguf__little(r->data + r->at - bytes, bytes);
}

static int gguf__is_text(const unsigned char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        const size_t k = s[i] < 0x80 ? s[i] != 0 : json__utf8(s + i, n - i);
        if (!k) return 0;
        i += k;
    }
    return 1;
}

/* A string; *length is 0 after an error. what: for messages, "a key's name", or a key's name that is of_key bytes. */
static const char *gguf__text(gguf__reader *r, const char *what, size_t of_key, uint64_t longest, size_t *length) {
    const int n = (int)(of_key < 99 ? of_key : 99);
    const uint64_t bytes = gguf__scalar(r, 8, "the length of a string");
    const char *text = (const char *)r->data + r->at;
    *length = 0;
    if (r->rc) return text;
    if (bytes > longest || bytes > r->size - r->at)
        r->rc = ck__fail(r->err, MLA_ERR_WEIGHTS, "%s: %.*s at byte %zu has %llu bytes, more than there are or can be",
                         r->part->file, n, what, r->at, (unsigned long long)bytes);
    else if (!gguf__is_text(r->data + r->at, (size_t)bytes))
        r->rc = ck__fail(r->err, MLA_ERR_WEIGHTS, "%s: %.*s at byte %zu is not UTF-8, or has a NUL", r->part->file, n,
                         what, r->at);
    if (r->rc) return text;
    r->at += (size_t)bytes;
    *length = (size_t)bytes;
    return text;
}

static const char *gguf__name(gguf__reader *r, const char *what, size_t *length) {
    const char *name = gguf__text(r, what, strlen(what), GGUF__LONGEST, length);
    if (!r->rc && !*length) r->rc = ck__fail(r->err, MLA_ERR_WEIGHTS, "%s: %s is empty", r->part->file, what);
    return name;
}

static void gguf__read_key(gguf__reader *r, gguf_key *k) {
    size_t length, ignored;
    k->name = gguf__name(r, "the name of a key", &length);
    const char *what = k->name;
    const int n = (int)(length < 99 ? length : 99);
    uint64_t type = gguf__scalar(r, 4, "a key"), count = 1;
    k->is_array = type == GGUF_ARRAY;
    if (k->is_array) {
        type = gguf__scalar(r, 4, "a key");
        count = gguf__scalar(r, 8, "a key");
    }
    if (r->rc) return;
    if (type >= GGUF_TYPE_COUNT || type == GGUF_ARRAY) {
        r->rc = ck__fail(r->err, MLA_ERR_WEIGHTS, "%s: key \"%.*s\": %s", r->part->file, n, what,
                         type == GGUF_ARRAY ? "an array of arrays" : "its type is not known");
        return;
    }
    const size_t left = r->size - r->at, size = type == GGUF_STRING ? 8 : gguf__sizes[type];
    if (count > left / size) {
        r->rc = ck__fail(r->err, MLA_ERR_WEIGHTS, "%s: key \"%.*s\": %llu elements, but %zu bytes are left",
                         r->part->file, n, what, (unsigned long long)count, left);
        return;
    }
    k->type = (gguf_type)type;
    k->count = (size_t)count;
    k->data = r->data + r->at;
    if (type != GGUF_STRING) r->at += (size_t)count * size;
    for (uint64_t i = 0; type == GGUF_STRING && i < count && !r->rc; i++)
        gguf__text(r, what, length, UINT64_MAX, &ignored);
    k->bytes = r->at - (size_t)((const unsigned char *)k->data - r->data);
    for (size_t i = 0; type == GGUF_BOOL && i < k->count && !r->rc; i++)
        if (((const unsigned char *)k->data)[i] > 1)
            r->rc = ck__fail(r->err, MLA_ERR_WEIGHTS, "%s: key \"%.*s\": a bool that is neither 0 nor 1", r->part->file,
                             n, what);
}

/* offset: where it begins in the data, which is checked when that is known. */
static void gguf__read_tensor(gguf__reader *r, gguf_tensor *t, uint64_t *offset) {
    static const char what[] = "the description of a tensor";
    size_t length;
    t->name = gguf__name(r, "the name of a tensor", &length);
    const int n = (int)(length < 99 ? length : 99);
    const uint64_t n_dims = gguf__scalar(r, 4, what);
    if (!r->rc && (n_dims < 1 || n_dims > 4))
        r->rc = ck__fail(r->err, MLA_ERR_WEIGHTS, "%s: tensor \"%.*s\": %llu dimensions, expected 1 to 4",
                         r->part->file, n, t->name, (unsigned long long)n_dims);
    for (int i = 0; i < 4; i++) {
        const uint64_t d = i < (int)n_dims && !r->rc ? gguf__scalar(r, 8, what) : 1;
        t->dims[i] = d <= INT64_MAX ? (int64_t)d : -1;
    }
    const uint32_t type = (uint32_t)gguf__scalar(r, 4, what);
    *offset = gguf__scalar(r, 8, what);
    if (r->rc) return;
    const gguf__format *f = gguf__format_of(type);
    if (!f) {
        r->rc = ck__fail(r->err, MLA_ERR_UNSUPPORTED, "%s: tensor \"%.*s\": type %lu, %s, is not supported",
                         r->part->file, n, t->name, (unsigned long)type, gguf__foreign(type));
        return;
    }
    t->type = (int)type;
    t->dtype = f->dtype;
    t->n_dims = (int)n_dims;
    t->file = r->part->file;
    t->bytes = gguf__bytes(f, t->dims, t->n_dims);
    if (!t->bytes)
        r->rc = ck__fail(r->err, MLA_ERR_WEIGHTS,
                         "%s: tensor \"%.*s\": dimensions %lld, %lld, %lld, %lld of %s are none: rows have a multiple "
                         "of %d",
                         r->part->file, n, t->name, (long long)t->dims[0], (long long)t->dims[1], (long long)t->dims[2],
                         (long long)t->dims[3], f->name, f->block);
}

static size_t gguf__name_bytes(const char *name) { return (size_t)gguf__little(name - 8, 8); }

static void gguf__copy_names(gguf__reader *r) {
    size_t bytes = 0;
    for (size_t i = 0; i < r->n_keys; i++) bytes += gguf__name_bytes(r->keys[i].name) + 1;
    for (size_t i = 0; i < r->n_tensors; i++) bytes += gguf__name_bytes(r->tensors[i].name) + 1;
    char *to = r->part->names = (char *)malloc(bytes + 1);
    if (!to) r->rc = ck__no_memory(r->err, r->part->file);
    for (size_t i = 0; to && i < r->n_keys + r->n_tensors; i++) {
        const char **name = i < r->n_keys ? &r->keys[i].name : &r->tensors[i - r->n_keys].name;
        const size_t n = gguf__name_bytes(*name);
        memcpy(to, *name, n);
        to[n] = 0;
        *name = to;
        to += n + 1;
    }
}

static int gguf__by_key(const void *a, const void *b) {
    return strcmp(((const gguf_key *)a)->name, ((const gguf_key *)b)->name);
}
static int gguf__by_name(const void *a, const void *b) {
    return strcmp(((const gguf_tensor *)a)->name, ((const gguf_tensor *)b)->name);
}
static int gguf__by_address(const void *a, const void *b) {
    const char *p = (const char *)((const gguf_tensor *)a)->data, *q = (const char *)((const gguf_tensor *)b)->data;
    return p < q ? -1 : p > q;
}

static const gguf_key *gguf__find(const gguf_key *keys, size_t n, const char *name) {
    gguf_key wanted;
    wanted.name = name;
    return n ? (const gguf_key *)bsearch(&wanted, keys, n, sizeof wanted, gguf__by_key) : NULL;
}

/* Magic, version and the two counts, each of which has a least number of bytes. */
static void gguf__read_head(gguf__reader *r, uint64_t *n_tensors, uint64_t *n_keys) {
    const char *file = r->part->file;
    if (r->size < 4 || memcmp(r->data, "GGUF", 4)) {
        const char *impostor = ck__impostor(r->data, r->size);
        r->rc = ck__fail(r->err, MLA_ERR_WEIGHTS, "%s: not a GGUF file: %s", file,
                         impostor ? impostor : "it does not begin with \"GGUF\"");
        return;
    }
    r->at = 4;
    const uint32_t version = (uint32_t)gguf__scalar(r, 4, "the version");
    if (!r->rc && (version & 0xffff) == 0 && version)
        r->rc = ck__fail(r->err, MLA_ERR_UNSUPPORTED, "%s: a big-endian GGUF file is not supported", file);
    else if (!r->rc && version != 2 && version != 3)
        r->rc = ck__fail(r->err, MLA_ERR_UNSUPPORTED, "%s: GGUF version %lu is not supported (2 and 3 are)", file,
                         (unsigned long)version);
    *n_tensors = gguf__scalar(r, 8, "the number of tensors");
    *n_keys = gguf__scalar(r, 8, "the number of keys");
    if (!r->rc && (*n_keys > (r->size - r->at) / 14 || *n_tensors > (r->size - r->at) / 33))
        r->rc = ck__fail(r->err, MLA_ERR_WEIGHTS, "%s: %llu keys and %llu tensors are more than its %zu bytes can hold",
                         file, (unsigned long long)*n_keys, (unsigned long long)*n_tensors, r->size);
}

static void gguf__read_alignment(gguf__reader *r) {
    const gguf_key *k = gguf__find(r->keys, r->n_keys, "general.alignment");
    int64_t a = 32;
    if (r->rc) return;
    if (k &&
        (k->is_array || k->type == GGUF_BOOL || !gguf_integer(k, 0, &a) || a < 1 || a > (1 << 30) || (a & (a - 1))))
        r->rc = ck__fail(r->err, MLA_ERR_WEIGHTS, "%s: key \"general.alignment\" is no power of two", r->part->file);
    r->alignment = (size_t)a;
}

/* Where the data of each lies: within the file, and apart. */
static void gguf__place(gguf__reader *r, const uint64_t *offsets) {
    const size_t begin = r->at + (r->alignment - r->at % r->alignment) % r->alignment;
    const size_t size = begin < r->size ? r->size - begin : 0;
    for (size_t i = 0; i < r->n_tensors && !r->rc; i++) {
        gguf_tensor *t = &r->tensors[i];
        if (offsets[i] % r->alignment)
            r->rc = ck__fail(r->err, MLA_ERR_WEIGHTS,
                             "%s: tensor \"%.99s\": its offset %llu is no multiple of the alignment %zu", t->file,
                             t->name, (unsigned long long)offsets[i], r->alignment);
        else if (offsets[i] > size || t->bytes > size - (size_t)offsets[i])
            r->rc = ck__fail(r->err, MLA_ERR_WEIGHTS,
                             "%s: tensor \"%.99s\": %zu bytes at offset %llu, but the file has %zu bytes of data",
                             t->file, t->name, t->bytes, (unsigned long long)offsets[i], size);
        else t->data = r->data + begin + (size_t)offsets[i];
    }
    if (r->rc || !r->n_tensors) return;
    qsort(r->tensors, r->n_tensors, sizeof *r->tensors, gguf__by_address);
    for (size_t i = 1; i < r->n_tensors && !r->rc; i++)
        if ((const char *)r->tensors[i - 1].data + r->tensors[i - 1].bytes > (const char *)r->tensors[i].data)
            r->rc = ck__fail(r->err, MLA_ERR_WEIGHTS, "%s: tensors \"%.50s\" and \"%.50s\" overlap", r->part->file,
                             r->tensors[i - 1].name, r->tensors[i].name);
}

static void gguf__read_part(gguf__reader *r) {
    uint64_t n_tensors = 0, n_keys = 0, *offsets = NULL;
    gguf__read_head(r, &n_tensors, &n_keys);
    if (r->rc) return;
    r->keys = (gguf_key *)calloc((size_t)n_keys + 1, sizeof *r->keys);
    r->tensors = (gguf_tensor *)calloc((size_t)n_tensors + 1, sizeof *r->tensors);
    offsets = (uint64_t *)calloc((size_t)n_tensors + 1, sizeof *offsets);
    if (!r->keys || !r->tensors || !offsets) r->rc = ck__no_memory(r->err, r->part->file);
    for (; r->n_keys < n_keys && !r->rc; r->n_keys += !r->rc) gguf__read_key(r, &r->keys[r->n_keys]);
    for (; r->n_tensors < n_tensors && !r->rc; r->n_tensors += !r->rc)
        gguf__read_tensor(r, &r->tensors[r->n_tensors], &offsets[r->n_tensors]);
    if (!r->rc) gguf__copy_names(r);
    if (!r->rc && r->n_keys) qsort(r->keys, r->n_keys, sizeof *r->keys, gguf__by_key);
    for (size_t i = 1; i < r->n_keys && !r->rc; i++)
        if (!gguf__by_key(&r->keys[i - 1], &r->keys[i]))
            r->rc =
                ck__fail(r->err, MLA_ERR_WEIGHTS, "%s: key \"%.99s\" is there twice", r->part->file, r->keys[i].name);
    gguf__read_alignment(r);
    if (!r->rc) gguf__place(r, offsets);
    free(offsets);
}

/* ---- >>gguf-split ------------------------------------------------------------------------------------------------ */

static mla_result gguf__sort(gguf *g, mla_error *err) {
    if (g->n_tensors) qsort(g->tensors, g->n_tensors, sizeof *g->tensors, gguf__by_name);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (!gguf__by_name(&g->tensors[i - 1], &g->tensors[i]))
            return ck__fail(err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\" is there twice", g->tensors[i].file,
                            g->tensors[i].name);
    return MLA_OK;
}

/* Adds the next part to g, which has room for it. expected: what the split keys must say, NULL for the first part;
   then split [3] gets its number, count and tensors, 0, 1 and 0 if there is nothing. */
static mla_result gguf__add(gguf *g, const unsigned char *data, size_t size, const int64_t *expected, int64_t *split,
                            mla_error *err) {
    static const char *const names[3] = {"split.no", "split.count", "split.tensors.count"};
    static const int64_t most[3] = {99998, 99999, INT_MAX};
    gguf__reader r;
    memset(&r, 0, sizeof r);
    r.data = data ? data : (const unsigned char *)"";
    r.size = size;
    r.part = &g->parts[g->n_parts];
    r.err = err;
    gguf__read_part(&r);
    for (int i = 0; i < 3 && !r.rc; i++) {
        const gguf_key *k = gguf__find(r.keys, r.n_keys, names[i]);
        split[i] = i == 1;
        if ((k && (k->is_array || !gguf_integer(k, 0, &split[i]))) || split[i] < (i == 1) || split[i] > most[i] ||
            (expected && split[i] != expected[i]))
            r.rc = ck__fail(err, MLA_ERR_WEIGHTS, "%s: key \"%s\" is not what this part of a split set has",
                            r.part->file, names[i]);
    }
    gguf_tensor *all =
        r.rc ? NULL : (gguf_tensor *)realloc((void *)g->tensors, (g->n_tensors + r.n_tensors + 1) * sizeof *g->tensors);
    if (all) {
        memcpy(all + g->n_tensors, r.tensors, r.n_tensors * sizeof *all);
        g->tensors = all;
        g->n_tensors += r.n_tensors;
    } else if (!r.rc) r.rc = ck__no_memory(err, r.part->file);
    free(r.tensors);
    if (r.rc || g->n_parts) free(r.keys);
    else {
        g->keys = r.keys;
        g->n_keys = r.n_keys;
    }
    g->n_parts++; /* so that what it has is freed */
    return r.rc;
}

static mla_result gguf__add_file(gguf *g, const char *path, const int64_t *expected, int64_t *split, mla_error *err) {
    gguf__part *part = &g->parts[g->n_parts];
    snprintf(part->file, sizeof part->file, "%.60s", ck__base_name(path));
    mla_result rc = ck__file_open(&part->map, path, NULL, err);
    return rc ? rc : gguf__add(g, part->map.data, part->map.size, expected, split, err);
}

/* Bytes of "-00001-of-00007.gguf" at the end of a name, 0 if it has no such end. */
static size_t gguf__split_end(const char *path) {
    static const char form[] = "-00000-of-00000.gguf";
    const size_t n = strlen(path), m = sizeof form - 1;
    for (size_t i = 0; i < m && n > m; i++) {
        const char c = path[n - m + i];
        if (form[i] == '0' ? c < '0' || c > '9' : c != form[i]) return 0;
    }
    return n > m ? m : 0;
}

/* g has one part, which is one of several. */
static mla_result gguf__open_set(gguf *g, const char *path, int64_t *split, mla_error *err) {
    const size_t end = gguf__split_end(path), n = strlen(path);
    const int64_t first = split[0], count = split[1], tensors = split[2];
    char *name = (char *)malloc(n + 32);
    mla_result rc = MLA_OK;
    int64_t expected[3] = {0, 0, 0};
    expected[1] = count, expected[2] = tensors;
    if (!name) return ck__no_memory(err, g->parts->file);
    memcpy(name, path, n + 1);
    if (end) snprintf(name + n - end, 32 + end, "-%05d-of-%05d.gguf", (int)first + 1, (int)count);
    if (!end || strcmp(name, path) || first >= count)
        rc = ck__fail(err, MLA_ERR_WEIGHTS,
                      "%s: its keys say that it is part %lld of %lld of a split set, expected a name with "
                      "-%05lld-of-%05lld.gguf",
                      g->parts->file, (long long)first + 1, (long long)count, (long long)first + 1, (long long)count);
    gguf__part *parts = rc ? NULL : (gguf__part *)calloc((size_t)count, sizeof *parts);
    if (!rc && !parts) rc = ck__no_memory(err, g->parts->file);
    if (!rc) { /* all over again, now in order */
        ck__file_close(&g->parts->map);
        free(g->parts->names);
        free(g->parts);
        free(g->keys);
        g->parts = parts;
        g->keys = NULL;
        g->n_keys = g->n_parts = g->n_tensors = 0;
    }
    for (int64_t i = 0; i < count && !rc; i++) {
        expected[0] = i;
        snprintf(name + n - end, 32 + end, "-%05d-of-%05d.gguf", (int)i + 1, (int)count);
        rc = gguf__add_file(g, name, expected, split, err);
    }
    if (!rc && (uint64_t)tensors != g->n_tensors)
        rc = ck__fail(err, MLA_ERR_WEIGHTS, "%s: its parts have %zu tensors, but split.tensors.count is %lld",
                      g->parts->file, g->n_tensors, (long long)tensors);
    free(name);
    return rc;
}

static gguf *gguf__new(const char *label, mla_error *err) {
    gguf *g = (gguf *)calloc(1, sizeof *g);
    gguf__part *part = g ? (gguf__part *)calloc(1, sizeof *part) : NULL;
    if (!part) {
        free(g);
        ck__no_memory(err, label);
        return NULL;
    }
    snprintf(part->file, sizeof part->file, "%.60s", label);
    g->parts = part;
    return g;
}

mla_result gguf_open(gguf **out, const char *path, mla_error *err) {
    int64_t split[3];
    if (out) *out = NULL;
    if (!out || !path) return ck__fail(err, MLA_ERR_ARGUMENT, "gguf_open: out or path is NULL");
    gguf *g = gguf__new(ck__base_name(path), err);
    if (!g) return MLA_ERR_MEMORY;
    mla_result rc = gguf__add_file(g, path, NULL, split, err);
    if (!rc && split[1] > 1) rc = gguf__open_set(g, path, split, err);
    if (!rc) rc = gguf__sort(g, err);
    if (rc) gguf_close(g);
    else *out = g;
    return rc;
}

mla_result gguf_parse(gguf **out, const void *data, size_t size, const char *label, mla_error *err) {
    int64_t split[3];
    if (out) *out = NULL;
    if (!out || (!data && size)) return ck__fail(err, MLA_ERR_ARGUMENT, "gguf_parse: out or data is NULL");
    gguf *g = gguf__new(label ? label : "buffer", err);
    if (!g) return MLA_ERR_MEMORY;
    mla_result rc = gguf__add(g, (const unsigned char *)data, size, NULL, split, err);
    if (!rc && split[1] > 1)
        rc =
            ck__fail(err, MLA_ERR_WEIGHTS, "%s: one of %lld parts of a split set", g->parts->file, (long long)split[1]);
    if (!rc) rc = gguf__sort(g, err);
    if (rc) gguf_close(g);
    else *out = g;
    return rc;
}

void gguf_close(gguf *g) {
    if (!g) return;
    for (size_t i = 0; i < g->n_parts; i++) {
        ck__file_close(&g->parts[i].map);
        free(g->parts[i].names);
    }
    free(g->parts);
    free(g->keys);
    free(g->tensors);
    free(g);
}

size_t gguf_parts(const gguf *g) { return g ? g->n_parts : 0; }
size_t gguf_key_count(const gguf *g) { return g ? g->n_keys : 0; }
const gguf_key *gguf_key_at(const gguf *g, size_t i) { return i < gguf_key_count(g) ? &g->keys[i] : NULL; }
const gguf_key *gguf_find_key(const gguf *g, const char *name) {
    return gguf__find(g ? g->keys : NULL, gguf_key_count(g), name);
}
size_t gguf_tensor_count(const gguf *g) { return g ? g->n_tensors : 0; }
const gguf_tensor *gguf_tensor_at(const gguf *g, size_t i) { return i < gguf_tensor_count(g) ? &g->tensors[i] : NULL; }
const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name) {
    gguf_tensor wanted;
    wanted.name = name;
    return gguf_tensor_count(g)
               ? (const gguf_tensor *)bsearch(&wanted, g->tensors, g->n_tensors, sizeof wanted, gguf__by_name)
               : NULL;
}

int gguf_integer(const gguf_key *k, size_t i, int64_t *out) {
    if (!k || i >= k->count || k->type == GGUF_STRING || k->type == GGUF_F32 || k->type == GGUF_F64) return 0;
    const size_t bytes = gguf__sizes[k->type];
    const int is_signed = k->type == GGUF_I8 || k->type == GGUF_I16 || k->type == GGUF_I32 || k->type == GGUF_I64;
    uint64_t v = gguf__little((const unsigned char *)k->data + i * bytes, bytes);
    if (is_signed && bytes < 8 && v >> (8 * bytes - 1)) v |= UINT64_MAX << (8 * bytes);
    if (!is_signed && v > INT64_MAX) return 0;
    memcpy(out, &v, sizeof v);
    return 1;
}

int gguf_number(const gguf_key *k, size_t i, double *out) {
    int64_t integer;
    float f;
    if (k && i < k->count && k->type == GGUF_F32) {
        memcpy(&f, (const unsigned char *)k->data + i * sizeof f, sizeof f);
        *out = (double)f;
    } else if (k && i < k->count && k->type == GGUF_F64)
        memcpy(out, (const unsigned char *)k->data + i * sizeof *out, sizeof *out);
    else if (k && k->type != GGUF_BOOL && gguf_integer(k, i, &integer)) *out = (double)integer;
    else return 0;
    return 1;
}

const char *gguf_next(gguf_strings *s, size_t *length) {
    if (!s->left) return NULL;
    const char *text = (const char *)s->at + 8;
    *length = (size_t)gguf__little(s->at, 8);
    s->at += 8 + *length;
    s->left--;
    return text;
}

gguf_strings gguf_strings_of(const gguf_key *k) {
    gguf_strings s;
    const int is = k && k->is_array && k->type == GGUF_STRING;
    s.at = is ? (const unsigned char *)k->data : NULL;
    s.left = is ? k->count : 0;
    return s;
}

const char *gguf_string(const gguf_key *k, size_t *length) {
    if (!k || k->is_array || k->type != GGUF_STRING) return NULL;
    *length = (size_t)gguf__little(k->data, 8);
    return (const char *)k->data + 8;
}

/* ---- >>gguf-config ----------------------------------------------------------------------------------------------- */
/* What is taken where a file says nothing, or less than its model needs:
   - longrope without attn_factor: cosines are scaled as transformers does it, by a factor that is 1 where
     original_context_length is context_length, as in the published MiniCPM3 (llama.cpp: never);
   - rope.freq_base 10000; yarn's beta_fast 32 and beta_slow 1; no yarn_log_multiplier: softmax is not scaled for yarn,
     whose cosines never are;
   - expert_weights_scale 1, expert_weights_norm false, expert_gating_func softmax, but sigmoid for glm-dsa and for
     deepseek2 with 47 or 48 blocks (GLM-4.7-Flash);
   - expert groups: those of DeepSeek-V3 (4 of 8) for sigmoid, 256 experts and 61 or 62 blocks, of V2 (3 of 8, each by
     its best expert) for softmax and 160 experts. Files from before autumn 2025 do not have them, and llama.cpp runs
     those without; checkpoint_options.groups chooses;
   - the latent norms have eps 1e-6, as the models were trained, whatever the file says for the others (llama.cpp takes
     that for all);
   - which layers of glm-dsa have an indexer: all if made for less than 2^20 tokens, else 0, 1, 2, 6, 10, ...; of
     hy_v4: 0, 1, 5, 9, ...;
   - hy_v4: hyper_connection.epsilon 1e-6; no swiglu_clamp_exp: experts are not clamped;
   - kimi-linear: no expert_weights_norm: the weights are divided by their sum (llama.cpp: whatever the key says);
     nothing rotates, whatever the keys of rope say. It has no key for another number of heads in layers of KDA;
   - bailingmoe3: the decay of KDA has a lower bound, also if kda.safe_gate is not there;
   - minicpm3: values of embedding_length / head_count; scales 12, 1.4 / sqrt(layers), 256 / embedding_length.
   Other keys that would change what is computed are refused. */

enum {
    GGUF__INDEXER = 1,
    GGUF__INDEX_HALF = 2,
    GGUF__INDEX_SHARED = 4,
    GGUF__HALF = 8,
    GGUF__MINICPM = 16,
    GGUF__HY = 32,
    GGUF__KDA = 64, /* layers with no heads of keys are Kimi Delta Attention */
    GGUF__BAILING = 128
};

typedef struct gguf__arch {
    const char *name;
    unsigned has;
} gguf__arch;

static const gguf__arch gguf__archs[] = {{"deepseek2", 0},
                                         {"deepseek32", GGUF__INDEXER | GGUF__INDEX_HALF},
                                         {"glm-dsa", GGUF__INDEXER | GGUF__INDEX_SHARED},
                                         {"minicpm3", GGUF__HALF | GGUF__MINICPM},
                                         {"mistral4", 0},
                                         {"hy_v4", GGUF__INDEXER | GGUF__INDEX_HALF | GGUF__INDEX_SHARED | GGUF__HY},
                                         {"kimi-linear", GGUF__KDA},
                                         {"bailingmoe3", GGUF__KDA | GGUF__BAILING}};

static const struct gguf__refused {
    const char *arch, *why;
} gguf__refused[] = {
    {"clip", "it is the part of a model that sees, which goes with another file"},
    {"deepseek2-ocr", "its attention caches keys and values of all heads, not the latents of MLA"},
    {"deepseek4", "its attention does not cache the latents of MLA"},
    {"kimi-k3", "what it has beside MLA and Kimi Delta Attention is not known here"},
    {"dots3note", "it needs gates, a sliding window and a norm on the rope key beside MLA"},
    {"longcat-flash", "not as GGUF, but as a Hugging Face directory"},
};

/* Keys that change what is computed and are not obeyed, unless they have the value that does nothing. */
static const struct gguf__neutral {
    const char *key;
    double value;
} gguf__neutral[] = {
    {"attention.scale", 0},
    {"attention.sliding_window", 0},
    {"attention.clamp_kqv", 0},
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
    {"rope.scale_linear", 1},
    {"rope.scaling.yarn_ext_factor", 1},
    {"rope.scaling.yarn_attn_factor", 1},
    {"expert_group_scale", 1},
    {"swiglu_clamp_shexp", 0},
};

typedef struct gguf__model {
    checkpoint *c;
    const gguf *g;
    const checkpoint_options *how;
    const gguf__arch *arch;
    const char *file;
    int dense;    /* layers before those with experts */
    int ahead;    /* layers of multi-token prediction in the file, wanted or not */
    char *used;   /* [tensors] */
    float *decay; /* in decays, of the next layer of KDA */
    mla_result rc;
    mla_error *err;
} gguf__model;

static int gguf__is_kimi_linear(const gguf__model *m) {
    return (m->arch->has & (GGUF__KDA | GGUF__BAILING)) == GGUF__KDA;
}

static void gguf__unfit(gguf__model *m, const gguf_key *k, const char *what) {
    if (!m->rc) m->rc = ck__fail(m->err, MLA_ERR_CONFIG, "%s: key \"%.80s\": expected %s", m->file, k->name, what);
}

/* The key ARCH.name. */
static const gguf_key *gguf__key(gguf__model *m, const char *name, int required) {
    char full[128];
    snprintf(full, sizeof full, "%s.%s", m->arch->name, name);
    const gguf_key *k = m->rc ? NULL : gguf_find_key(m->g, full);
    if (!k && required && !m->rc) m->rc = ck__fail(m->err, MLA_ERR_CONFIG, "%s: key \"%s\" is missing", m->file, full);
    return k;
}

/* An integer, or where a key may have one for each layer: that of the layers from .. to - 1, which must agree. absent:
   ck__required, or the value without such a key. */
static int gguf__of_layers(gguf__model *m, const char *name, int from, int to, int min, int max, int absent) {
    const gguf_key *k = gguf__key(m, name, absent == ck__required);
    char what[96];
    int64_t first = 0, next = 0;
    if (!k) return absent == ck__required ? min : absent;
    const size_t end = k->is_array ? (size_t)to : 1, begin = k->is_array ? (size_t)from : 0;
    int good = k->type != GGUF_BOOL && begin < end && gguf_integer(k, begin, &first) && first >= min && first <= max;
    for (size_t i = begin + 1; i < end && good; i++) good = gguf_integer(k, i, &next) && next == first;
    snprintf(what, sizeof what, "an integer from %d to %d%s", min, max, to ? ", the same for all layers" : "");
    if (!good) gguf__unfit(m, k, what);
    return good ? (int)first : min;
}

static int gguf__int(gguf__model *m, const char *name, int min, int max, int absent) {
    return gguf__of_layers(m, name, 0, 0, min, max, absent);
}

static float gguf__float(gguf__model *m, const char *name, double min, double absent) { /* absent < 0: required */
    const gguf_key *k = gguf__key(m, name, absent < 0);
    double x = 0;
    if (!k) return (float)(absent < 0 ? min : absent);
    if (!k->is_array && gguf_number(k, 0, &x) && x >= min && x <= FLT_MAX) return (float)x;
    gguf__unfit(m, k, min > 0 ? "a number above 0" : "a number from 0 on");
    return (float)min;
}

static float gguf__negative(gguf__model *m, const char *name) {
    const gguf_key *k = gguf__key(m, name, 1);
    double x = 0;
    if (m->rc || (!k->is_array && gguf_number(k, 0, &x) && x < 0 && x >= -FLT_MAX)) return (float)x;
    gguf__unfit(m, k, "a number below 0");
    return -1;
}

/* A number from 0 on, or one for each layer: that of the layers from .. to - 1, which must agree; absent 0. */
static float gguf__float_of_layers(gguf__model *m, const char *name, int from, int to) {
    const gguf_key *k = gguf__key(m, name, 0);
    double first = 0, next = 0;
    if (!k || !k->is_array) return gguf__float(m, name, 0, 0);
    int good = from < to && gguf_number(k, (size_t)from, &first) && first >= 0 && first <= (double)FLT_MAX;
    for (int i = from + 1; i < to && good; i++)
        good = gguf_number(k, (size_t)i, &next) && !(next < first || next > first);
    if (!good) gguf__unfit(m, k, "a number from 0 on, the same for all layers");
    return good ? (float)first : 0;
}

static int gguf__flag(gguf__model *m, const char *name) {
    const gguf_key *k = gguf__key(m, name, 0);
    int64_t v = 0;
    if (k && (k->is_array || k->type != GGUF_BOOL || !gguf_integer(k, 0, &v))) gguf__unfit(m, k, "a bool");
    return v != 0;
}

static int gguf__is(const gguf_key *k, const char *text) {
    size_t n = 0;
    const char *s = gguf_string(k, &n);
    return s && n == strlen(text) && !memcmp(s, text, n);
}

static void gguf__read_arch(gguf__model *m) {
    const gguf_key *k = gguf_find_key(m->g, "general.architecture");
    const size_t n = sizeof gguf__archs / sizeof *gguf__archs;
    size_t length = 0;
    const char *name = gguf_string(k, &length);
    m->arch = gguf__archs;
    if (!name) {
        m->rc = ck__fail(m->err, MLA_ERR_CONFIG, "%s: key \"general.architecture\" is missing, or no string", m->file);
        return;
    }
    for (size_t i = 0; i < n; i++)
        if (gguf__is(k, gguf__archs[i].name)) {
            m->arch = &gguf__archs[i];
            return;
        }
    const int shown = (int)(length < 40 ? length : 40);
    for (size_t i = 0; i < sizeof gguf__refused / sizeof *gguf__refused; i++)
        if (gguf__is(k, gguf__refused[i].arch))
            m->rc = ck__fail(m->err, MLA_ERR_UNSUPPORTED, "%s: general.architecture \"%.*s\" is not supported: %s",
                             m->file, shown, name, gguf__refused[i].why);
    if (!m->rc)
        m->rc =
            ck__fail(m->err, MLA_ERR_UNSUPPORTED,
                     "%s: general.architecture \"%.*s\" is not supported (deepseek2, deepseek32, glm-dsa, minicpm3, "
                     "mistral4, hy_v4, kimi-linear, bailingmoe3 are)",
                     m->file, shown, name);
}

/* The factors by which frequencies are divided, out of a tensor [P/2] of f32; NULL: there is none. */
static const float *gguf__rope_factors(gguf__model *m, const char *name, int which) {
    const gguf_tensor *t = gguf_find_tensor(m->g, name);
    const size_t n = (size_t)m->c->config.qk_rope_head_dim / 2;
    if (!t || m->rc) return NULL;
    m->used[t - m->g->tensors] = 1;
    if (t->dtype != MLA_F32 || t->dims[0] != (int64_t)n || t->bytes != 4 * n) {
        m->rc =
            ck__fail(m->err, MLA_ERR_WEIGHTS, "%s: tensor \"%s\": expected %zu numbers of type F32", t->file, name, n);
        return NULL;
    }
    if (!m->c->rope_factors) m->c->rope_factors = (float *)calloc(2 * n + 1, sizeof(float));
    if (!m->c->rope_factors) {
        m->rc = ck__no_memory(m->err, m->file);
        return NULL;
    }
    float *factors = m->c->rope_factors + (size_t)which * n;
    memcpy(factors, t->data, t->bytes);
    for (size_t i = 0; i < n && !m->rc; i++)
        if (!(factors[i] >= FLT_MIN && factors[i] <= FLT_MAX))
            m->rc = ck__fail(m->err, MLA_ERR_WEIGHTS, "%s: tensor \"%s\": expected numbers above 0", t->file, name);
    return factors;
}

/* rope_factors_*, or rope_freqs, which has them for every length. */
static void gguf__read_longrope(gguf__model *m) {
    mla_rope *rope = &m->c->config.rope;
    const float *all = gguf__rope_factors(m, "rope_freqs.weight", 0);
    const float *brief = all ? all : gguf__rope_factors(m, "rope_factors_short.weight", 0);
    const float *wide = all ? all : gguf__rope_factors(m, "rope_factors_long.weight", 1);
    const int asked = rope->scaling == MLA_ROPE_LONGROPE;
    if (m->rc || (!brief && !wide && !asked)) return;
    if (!brief || !wide || (rope->scaling != MLA_ROPE_DEFAULT && !asked)) {
        m->rc = ck__fail(m->err, MLA_ERR_WEIGHTS,
                         "%s: tensors \"rope_factors_long.weight\" and \"rope_factors_short.weight\" go together, with "
                         "no rope.scaling.type but longrope",
                         m->file);
        return;
    }
    rope->scaling = MLA_ROPE_LONGROPE;
    rope->short_factor = brief;
    rope->long_factor = wide;
    if (all) rope->factor = 1;
}

/* 10 x; where x is what f32 makes of a number of six digits, of that number. */
static float gguf__tenfold(float x) {
    const double digits = floor((double)x * 1e7 + 0.5) / 1e7;
    return (float)(10 * ((float)digits < x || (float)digits > x ? (double)x : digits));
}

static void gguf__read_rope(gguf__model *m) {
    mla_rope *rope = &m->c->config.rope;
    const gguf_key *type = gguf__key(m, "rope.scaling.type", 0);
    rope->layout = m->arch->has & GGUF__HALF ? MLA_ROPE_HALF : MLA_ROPE_PAIR;
    if (gguf__is_kimi_linear(m)) {
        rope->layout = MLA_ROPE_NONE;
        return;
    }
    rope->theta = gguf__float(m, "rope.freq_base", FLT_MIN, 10000);
    rope->max_position_embeddings = m->c->max_position_embeddings;
    rope->original_max_position_embeddings =
        gguf__int(m, "rope.scaling.original_context_length", 1, INT_MAX, m->c->max_position_embeddings);
    if (gguf__is(type, "linear")) rope->scaling = MLA_ROPE_LINEAR;
    else if (gguf__is(type, "yarn")) rope->scaling = MLA_ROPE_YARN;
    else if (gguf__is(type, "longrope")) rope->scaling = MLA_ROPE_LONGROPE;
    else if (type && !gguf__is(type, "none")) gguf__unfit(m, type, "none, linear, yarn or longrope");
    else if (!type && gguf__key(m, "rope.scaling.factor", 0)) gguf__key(m, "rope.scaling.type", 1);
    if (rope->scaling == MLA_ROPE_LINEAR || rope->scaling == MLA_ROPE_YARN)
        rope->factor = gguf__float(m, "rope.scaling.factor", FLT_MIN, -1);
    gguf__read_longrope(m);
    rope->attention_factor =
        gguf__float(m, "rope.scaling.attn_factor", FLT_MIN, rope->scaling == MLA_ROPE_YARN ? 1 : 0);
    if (rope->scaling != MLA_ROPE_YARN) return;
    rope->beta_fast = gguf__float(m, "rope.scaling.yarn_beta_fast", FLT_MIN, 32);
    rope->beta_slow = gguf__float(m, "rope.scaling.yarn_beta_slow", FLT_MIN, 1);
    rope->mscale_all_dim = gguf__tenfold(gguf__float(m, "rope.scaling.yarn_log_multiplier", 0, 0));
}

static void gguf__read_attention(gguf__model *m) {
    mla_config *f = &m->c->config;
    const int L = f->num_hidden_layers + f->num_nextn_predict_layers,
              is_new = gguf__key(m, "attention.key_length_mla", 0) != NULL;
    f->num_attention_heads = gguf__of_layers(m, "attention.head_count", 0, L, 1, INT_MAX, ck__required);
    f->q_lora_rank = gguf__int(m, "attention.q_lora_rank", 0, INT_MAX, 0);
    f->kv_lora_rank = gguf__int(m, "attention.kv_lora_rank", 1, INT_MAX, ck__required);
    f->qk_rope_head_dim = gguf__int(m, "rope.dimension_count", !gguf__is_kimi_linear(m), INT_MAX - 1, ck__required);
    f->qk_nope_head_dim = gguf__int(m, is_new ? "attention.key_length_mla" : "attention.key_length",
                                    f->qk_rope_head_dim + 1, INT_MAX, ck__required) -
                          f->qk_rope_head_dim;
    f->v_head_dim = gguf__int(m, is_new ? "attention.value_length_mla" : "attention.value_length", 1, INT_MAX,
                              m->arch->has & GGUF__MINICPM ? f->hidden_size / f->num_attention_heads : ck__required);
    f->temperature_beta = gguf__float(m, "attention.temperature_scale", 0, 0);
    if (f->temperature_beta > 0)
        f->temperature_period = gguf__int(m, "attention.temperature_length", 1, INT_MAX, ck__required);
}

/* Which layers are Kimi Delta Attention, and of what sizes. */
static void gguf__read_linear(gguf__model *m) {
    mla_config *f = &m->c->config;
    const size_t L = (size_t)f->num_hidden_layers;
    if (!(m->arch->has & GGUF__KDA)) return;
    const gguf_key *heads = gguf__key(m, "attention.head_count_kv", 1), *safe = gguf__key(m, "kda.safe_gate", 0);
    const int bounded = safe ? gguf__flag(m, "kda.safe_gate") : !gguf__is_kimi_linear(m);
    f->linear_num_heads = f->num_attention_heads;
    f->linear_head_dim = gguf__int(m, "kda.head_dim", 1, INT_MAX, ck__required);
    f->linear_conv_kernel_dim = gguf__int(m, "ssm.conv_kernel", 1, INT_MAX, ck__required);
    if (bounded == gguf__is_kimi_linear(m)) gguf__unfit(m, safe, bounded ? "false" : "true");
    if (bounded) f->kda_lower_bound = gguf__negative(m, "kda.gate_lower_bound");
    if (!m->rc && (!heads->is_array || heads->count < L))
        gguf__unfit(m, heads, "an array of a number for each layer, 0 for those with a state");
    if (m->rc) return;
    m->c->recurrent = (char *)calloc(L + 1, 1);
    if (!m->c->recurrent) m->rc = ck__no_memory(m->err, m->file);
    for (size_t i = 0; i < L && !m->rc; i++) {
        int64_t n = -1;
        if (!gguf_integer(heads, i, &n) || n < 0) gguf__unfit(m, heads, "numbers from 0 on");
        m->c->recurrent[i] = n == 0;
    }
}

/* Which layers have an indexer of those that have no part in multi-token prediction. */
static void gguf__read_indexer(gguf__model *m) {
    mla_config *f = &m->c->config;
    const gguf_key *types = gguf__key(m, "attention.indexer.types", 0);
    const size_t L = (size_t)f->num_hidden_layers;
    if (!(m->arch->has & GGUF__INDEXER)) return;
    f->index_topk = gguf__int(m, "attention.indexer.top_k", 1, INT_MAX, ck__required);
    f->index_n_heads = gguf__int(m, "attention.indexer.head_count", 1, INT_MAX, ck__required);
    f->index_head_dim = gguf__int(m, "attention.indexer.key_length", f->qk_rope_head_dim, INT_MAX, ck__required);
    f->index_rope = m->arch->has & GGUF__INDEX_HALF ? MLA_ROPE_HALF : MLA_ROPE_PAIR;
    if (!m->rc && !f->q_lora_rank) gguf__key(m, "attention.q_lora_rank", 1);
    if (m->rc) return;
    m->c->indexers = (char *)calloc(L + 1, 1);
    if (!m->c->indexers) m->rc = ck__no_memory(m->err, m->file);
    const int hy = (m->arch->has & GGUF__HY) != 0,
              shared = hy || (m->arch->has & GGUF__INDEX_SHARED && m->c->max_position_embeddings >= 1 << 20);
    if (hy) f->index_rope_last = 1, f->index_norm_eps = f->block_norm.eps;
    for (size_t i = 0; i < L && !m->rc; i++) {
        int64_t full = !shared || i < 2 || i % 4 == (hy ? 1 : 2);
        if (types && (!types->is_array || !gguf_integer(types, i, &full) || (i == 0 && !full)))
            gguf__unfit(m, types, "an array of a bool for each layer, the first one true");
        m->c->indexers[i] = full != 0;
    }
}

/* Where the file does not say: what DeepSeek's models have, or none. */
static void gguf__read_groups(gguf__model *m) {
    mla_config *f = &m->c->config;
    const int blocks = f->num_hidden_layers + m->ahead;
    const int E = f->n_routed_experts, sigmoid = f->scoring_func == MLA_SCORING_SIGMOID;
    const int is_deepseek = !(m->arch->has & ~(unsigned)(GGUF__INDEXER | GGUF__INDEX_HALF));
    const int v3 = is_deepseek && sigmoid && E == 256 && (blocks == 61 || blocks == 62);
    const int v2 = is_deepseek && !sigmoid && E == 160, silent = !gguf__key(m, "expert_group_count", 0);
    const int taken = m->how->groups == CHECKPOINT_GROUPS_MODEL;
    f->n_group = gguf__int(m, "expert_group_count", 0, E, (v3 || v2) && taken ? 8 : 1);
    f->n_group = f->n_group ? f->n_group : 1;
    f->topk_group = gguf__int(m, "expert_group_used_count", 0, f->n_group,
                              silent && taken && (v2 || v3) ? (v3 ? 4 : 3) : f->n_group);
    f->topk_group = f->topk_group ? f->topk_group : f->n_group;
    f->topk_method = sigmoid ? MLA_TOPK_NOAUX_TC : f->n_group > 1 ? MLA_TOPK_GROUP_LIMITED_GREEDY : MLA_TOPK_GREEDY;
    if (silent && (v2 || v3)) m->c->groups_assumed = taken ? v3 ? "DeepSeek-V3" : "DeepSeek-V2" : "none";
}

static void gguf__read_experts(gguf__model *m) {
    mla_config *f = &m->c->config;
    const int L = f->num_hidden_layers + f->num_nextn_predict_layers;
    f->n_routed_experts = gguf__int(m, "expert_count", 0, 65536, 0);
    m->dense = f->n_routed_experts ? gguf__int(m, "leading_dense_block_count", 0, INT_MAX, 0) : L;
    m->dense = m->dense < L ? m->dense : L;
    f->intermediate_size =
        m->dense ? gguf__of_layers(m, "feed_forward_length", 0, m->dense, 1, INT_MAX, ck__required) : 0;
    if (!f->n_routed_experts || m->rc) return;
    const int blocks = f->num_hidden_layers + m->ahead;
    const int flash = m->arch == gguf__archs && (blocks == 47 || blocks == 48);
    f->num_experts_per_tok = gguf__int(m, "expert_used_count", 1, f->n_routed_experts, ck__required);
    const int inter = f->moe_intermediate_size =
        gguf__of_layers(m, "expert_feed_forward_length", m->dense < L ? m->dense : 0, L, 1, INT_MAX, ck__required);
    f->n_shared_experts = gguf__int(m, "expert_shared_count", 0, INT_MAX, 0);
    const int shared = gguf__int(m, "expert_shared_feed_forward_length", 0, INT_MAX, 0);
    if (shared % inter)
        gguf__unfit(m, gguf__key(m, "expert_shared_feed_forward_length", 1),
                    "a multiple of expert_feed_forward_length");
    if (shared) f->n_shared_experts = shared / inter;
    const int kda = (m->arch->has & GGUF__KDA) != 0;
    const int scoring = gguf__int(m, "expert_gating_func", kda, INT_MAX, kda ? ck__required : 0);
    if (scoring > 2)
        m->rc = ck__fail(m->err, MLA_ERR_UNSUPPORTED,
                         "%s: key \"%s.expert_gating_func\": %d is not supported (1, softmax, and 2, sigmoid, are)",
                         m->file, m->arch->name, scoring);
    const int silent_sigmoid = flash || m->arch->has & GGUF__INDEX_SHARED;
    f->scoring_func = scoring == 2 || (!scoring && silent_sigmoid) ? MLA_SCORING_SIGMOID : MLA_SCORING_SOFTMAX;
    gguf__read_groups(m);
    f->norm_topk_prob =
        gguf__is_kimi_linear(m) && !gguf__key(m, "expert_weights_norm", 0) ? 1 : gguf__flag(m, "expert_weights_norm");
    f->routed_scaling_factor = gguf__float(m, "expert_weights_scale", 0, 1);
}

/* Begin and ends of texts. */
static void gguf__read_ids(gguf__model *m) {
    static const char *const names[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                        "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    checkpoint *c = m->c;
    c->bos_token_id = -1;
    for (int i = 0; i < 4 && !m->rc; i++) {
        const gguf_key *k = gguf_find_key(m->g, names[i]);
        int64_t id = 0;
        int known = 0;
        if (!k) continue;
        if (k->is_array || !gguf_integer(k, 0, &id) || id < 0 || id >= c->config.vocab_size)
            gguf__unfit(m, k, "a token id below the vocabulary's size");
        for (int j = 0; j < c->n_eos; j++) known |= c->eos_token_id[j] == id;
        if (i == 0) c->bos_token_id = (int)id;
        else if (!known) c->eos_token_id[c->n_eos++] = (int)id;
    }
}

/* A key that is not obeyed: it, or each element of it, has the value that does nothing. */
static void gguf__leave(gguf__model *m, const char *name, double nothing) {
    const gguf_key *k = gguf__key(m, name, 0);
    double v = 0;
    for (size_t i = 0; k && i < k->count && !m->rc; i++)
        if (!gguf_number(k, i, &v) || v < nothing || v > nothing)
            m->rc = ck__fail(m->err, MLA_ERR_UNSUPPORTED, "%s: key \"%s\" is not supported", m->file, k->name);
}

static void gguf__read_config(gguf__model *m) {
    mla_config *f = &m->c->config;
    const size_t n_neutral = sizeof gguf__neutral / sizeof *gguf__neutral;
    const gguf_key *tokens = gguf_find_key(m->g, "tokenizer.ggml.tokens");
    gguf__read_arch(m);
    if (m->rc) return;
    snprintf(m->c->model_type, sizeof m->c->model_type, "%s", m->arch->name);
    for (size_t i = 0; i < n_neutral; i++) gguf__leave(m, gguf__neutral[i].key, gguf__neutral[i].value);
    if (!(m->arch->has & GGUF__HY)) gguf__leave(m, "swiglu_clamp_exp", 0);
    /* No count of layers that the file can satisfy reaches that of its tensors. */
    const size_t n = gguf_tensor_count(m->g);
    const int most = n < INT_MAX ? (int)n : INT_MAX, blocks = gguf__int(m, "block_count", 1, most, ck__required);
    m->ahead = gguf__int(m, "nextn_predict_layers", 0, blocks - 1, 0);
    f->num_hidden_layers = blocks - m->ahead;
    const int unknown = (m->arch->has & (GGUF__HY | GGUF__KDA)) != 0; /* how these look ahead */
    f->num_nextn_predict_layers = m->how->mtp && !unknown ? m->ahead : 0;
    f->hidden_size = gguf__int(m, "embedding_length", 1, INT_MAX, ck__required);
    f->vocab_size =
        gguf__int(m, "vocab_size", 1, INT_MAX, tokens && tokens->count <= INT_MAX ? (int)tokens->count : ck__required);
    m->c->max_position_embeddings = gguf__int(m, "context_length", 1, INT_MAX, ck__required);
    f->block_norm.eps = gguf__float(m, "attention.layer_norm_rms_epsilon", FLT_MIN, -1);
    f->q_norm.eps = f->kv_norm.eps = 1e-6f;
    if (m->rc) return;
    gguf__read_attention(m);
    gguf__read_rope(m);
    gguf__read_linear(m);
    gguf__read_indexer(m);
    gguf__read_experts(m);
    if (m->arch->has & GGUF__HY) {
        f->hc_mult = gguf__int(m, "hyper_connection.count", 1, 64, ck__required);
        f->hc_eps = gguf__float(m, "hyper_connection.epsilon", 0, 1e-6);
        f->hc_magnitude = gguf__float(m, "hyper_connection.magnitude", FLT_MIN, -1);
        f->swiglu_limit = gguf__float_of_layers(m, "swiglu_clamp_exp", m->dense, f->num_hidden_layers);
    }
    if (m->arch->has & GGUF__MINICPM) {
        const double L = f->num_hidden_layers, D = f->hidden_size;
        f->embed_scale = gguf__float(m, "embedding_scale", FLT_MIN, 12);
        f->residual_scale = gguf__float(m, "residual_scale", FLT_MIN, (double)1.4f / sqrt(L));
        f->logits_scale = gguf__float(m, "logit_scale", FLT_MIN, 256 / D);
    }
    gguf__read_ids(m);
}

/* ---- >>gguf-weights ---------------------------------------------------------------------------------------------- */

/* blk.LAYER.name, or with layer -1 name. NULL: there is none. */
static const gguf_tensor *gguf__tensor(const gguf__model *m, int layer, const char *name) {
    char full[96];
    if (layer >= 0) snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    return m->rc ? NULL : gguf_find_tensor(m->g, layer >= 0 ? full : name);
}

/* A tensor of these dimensions as a matrix of b * c rows; it must be there. */
static mla_tensor gguf__bind(gguf__model *m, int layer, const char *name, int64_t a, int64_t b, int64_t c) {
    const gguf_tensor *t = gguf__tensor(m, layer, name);
    const int64_t want[4] = {a, b, c, 1};
    const int n = c > 1 ? 3 : b > 1 ? 2 : 1;
    char full[96], expected[64], found[64];
    if (layer >= 0) snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    else snprintf(full, sizeof full, "%s", name);
    ck__shape(expected, want, n);
    if (m->rc) return mla_view(NULL, MLA_F32, 0, 0);
    if (!t)
        m->rc = ck__fail(m->err, MLA_ERR_WEIGHTS, "%s: tensor \"%s\" is missing, expected with dimensions [%s]",
                         m->file, full, expected);
    else if (memcmp(t->dims, want, sizeof want))
        m->rc = ck__fail(m->err, MLA_ERR_WEIGHTS, "%s: tensor \"%s\": found dimensions [%s], expected [%s]", t->file,
                         full, ck__shape(found, t->dims, t->n_dims), expected);
    else if (t->dtype < 0)
        m->rc = ck__fail(m->err, MLA_ERR_UNSUPPORTED,
                         "%s: tensor \"%s\": type %s is not supported (F32, F16, BF16, Q4_0 .. Q8_0, Q2_K .. Q6_K, "
                         "IQ4_NL, IQ4_XS, MXFP4, NVFP4 are)",
                         t->file, full, gguf_type_name(t->type));
    else if (n == 1 && t->dtype > MLA_BF16)
        m->rc = ck__fail(m->err, MLA_ERR_WEIGHTS, "%s: tensor \"%s\": found type %s, expected F32, F16 or BF16",
                         t->file, full, gguf_type_name(t->type));
    else if (a > INT_MAX || b > INT_MAX / c)
        m->rc = ck__fail(m->err, MLA_ERR_WEIGHTS, "%s: tensor \"%s\": [%s] is too large", t->file, full, expected);
    if (m->rc) return mla_view(NULL, MLA_F32, 0, 0);
    m->used[t - m->g->tensors] = 1;
    return mla_view(t->data, (mla_dtype)t->dtype, (int)(b * c), (int)a);
}

static mla_linear gguf__linear(gguf__model *m, int layer, const char *name, int64_t in, int64_t out) {
    mla_linear w;
    memset(&w, 0, sizeof w);
    w.weight = gguf__bind(m, layer, name, in, out, 1);
    return w;
}

static mla_norm_weights gguf__norm(gguf__model *m, int layer, const char *name, int64_t n) {
    mla_norm_weights w;
    memset(&w, 0, sizeof w);
    w.weight = gguf__bind(m, layer, name, n, 1, 1);
    return w;
}

static mla_mlp_weights gguf__mlp(gguf__model *m, int layer, const char *form, int64_t D, int64_t width) {
    static const char *const parts[3] = {"gate", "up", "down"};
    mla_linear w[3];
    mla_mlp_weights mlp;
    char name[32];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, form, parts[i]);
        w[i] = i < 2 ? gguf__linear(m, layer, name, D, width) : gguf__linear(m, layer, name, width, D);
    }
    mlp.gate = w[0], mlp.up = w[1], mlp.down = w[2];
    return mlp;
}

/* A part of kv_b: [a, b, H], or as ik_llama.cpp writes it [a, b*H]. */
static mla_tensor gguf__half(gguf__model *m, int layer, const char *name, int64_t a, int64_t b) {
    const gguf_tensor *t = gguf__tensor(m, layer, name);
    const int64_t H = m->c->config.num_attention_heads;
    return t && t->dims[2] == 1 ? gguf__bind(m, layer, name, a, b * H, 1) : gguf__bind(m, layer, name, a, b, H);
}

/* Whose name may end with .weight. */
static mla_tensor gguf__plain(gguf__model *m, int layer, const char *name, int64_t a, int64_t b) {
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name);
    return gguf__bind(m, layer, gguf__tensor(m, layer, name) ? name : full, a, b, 1);
}
/* n maps of streams. */
static mla_hc_weights gguf__hc(gguf__model *m, int layer, const char *name, int n) {
    const int64_t streams = m->c->config.hc_mult;
    mla_hc_weights w;
    char full[32];
    memset(&w, 0, sizeof w);
    if (streams < 2) return w;
    snprintf(full, sizeof full, "%s_fn", name);
    w.fn = gguf__plain(m, layer, full, streams * m->c->config.hidden_size, n * streams);
    snprintf(full, sizeof full, "%s_base", name);
    w.base = gguf__plain(m, layer, full, n * streams, 1);
    snprintf(full, sizeof full, "%s_scale", name);
    w.scale = gguf__plain(m, layer, full, n, 1);
    return w;
}

/* One matrix in, or two with as many rows as a head has channels between them. */
static void gguf__pair(gguf__model *m, int layer, const char *name, mla_linear *first, mla_linear *second) {
    const mla_config *f = &m->c->config;
    const int64_t D = f->hidden_size, C = f->linear_head_dim, width = f->linear_num_heads * C;
    char a[32], b[32];
    snprintf(a, sizeof a, "ssm_%s_a.weight", name);
    snprintf(b, sizeof b, "ssm_%s_b.weight", name);
    if (m->arch->has & GGUF__BAILING && !gguf__tensor(m, layer, b)) {
        *second = gguf__linear(m, layer, a, D, width);
        return;
    }
    *first = gguf__linear(m, layer, a, D, C);
    *second = gguf__linear(m, layer, b, C, width);
}

/* A of the decay: the file has -exp(A), bailingmoe3's exp(A), as [1, heads]. */
static mla_tensor gguf__decay(gguf__model *m, int layer) {
    const int64_t heads = m->c->config.linear_num_heads;
    const float sign = gguf__is_kimi_linear(m) ? -1.0f : 1.0f;
    const gguf_tensor *t = gguf__tensor(m, layer, "ssm_a");
    const int flat = t && t->dims[0] == heads && heads > 1;
    const mla_tensor from = gguf__bind(m, layer, "ssm_a", flat ? heads : 1, flat ? 1 : heads, 1);
    float *to = m->decay;
    for (int64_t h = 0; h < heads && !m->rc; h++) {
        const float x = sign * mla_weight(&from, flat ? 0 : (int)h, flat ? (int)h : 0);
        if (!(x > 0 && x <= FLT_MAX))
            m->rc = ck__fail(m->err, MLA_ERR_WEIGHTS, "%s: tensor \"%s\": expected numbers %s 0", t->file, t->name,
                             sign < 0 ? "below" : "above");
        else to[h] = (float)log((double)x);
    }
    if (!m->rc) m->decay += heads;
    return mla_view(to, MLA_F32, 1, (int)heads);
}

static void gguf__kda(gguf__model *m, int layer, mla_kda_weights *w) {
    const mla_config *f = &m->c->config;
    const int64_t D = f->hidden_size, heads = f->linear_num_heads, C = f->linear_head_dim, width = heads * C;
    const int64_t taps = f->linear_conv_kernel_dim;
    w->q = gguf__linear(m, layer, "attn_q.weight", D, width);
    w->k = gguf__linear(m, layer, "attn_k.weight", D, width);
    w->v = gguf__linear(m, layer, "attn_v.weight", D, width);
    w->q_conv = gguf__bind(m, layer, "ssm_conv1d_q.weight", taps, 1, width);
    w->k_conv = gguf__bind(m, layer, "ssm_conv1d_k.weight", taps, 1, width);
    w->v_conv = gguf__bind(m, layer, "ssm_conv1d_v.weight", taps, 1, width);
    gguf__pair(m, layer, "f", &w->f_a, &w->f_b);
    gguf__pair(m, layer, "g", &w->g_a, &w->g_b);
    w->a_log = gguf__decay(m, layer);
    w->dt_bias = gguf__bind(m, layer, "ssm_dt.bias", width, 1, 1);
    w->b = gguf__linear(m, layer, "ssm_beta.weight", D, heads);
    w->norm = gguf__bind(m, layer, "ssm_norm.weight", C, 1, 1);
    w->o = gguf__linear(m, layer, "attn_output.weight", width, D);
}

static void gguf__attention(gguf__model *m, int layer, mla_attn_weights *w) {
    const mla_config *f = &m->c->config;
    const int64_t D = f->hidden_size, H = f->num_attention_heads, R = f->kv_lora_rank, Q = f->q_lora_rank;
    const int64_t N = f->qk_nope_head_dim, P = f->qk_rope_head_dim, V = f->v_head_dim;
    if (Q) {
        w->q_a = gguf__linear(m, layer, "attn_q_a.weight", D, Q);
        w->q_norm = gguf__norm(m, layer, "attn_q_a_norm.weight", Q);
        w->q_b = gguf__linear(m, layer, "attn_q_b.weight", Q, H * (N + P));
    } else w->q = gguf__linear(m, layer, "attn_q.weight", D, H * (N + P));
    w->kv_a = gguf__linear(m, layer, "attn_kv_a_mqa.weight", D, R + P);
    w->kv_norm = gguf__norm(m, layer, "attn_kv_a_norm.weight", R);
    const int whole = gguf__tensor(m, layer, "attn_kv_b.weight") != NULL;
    if (!whole || gguf__tensor(m, layer, "attn_k_b.weight") || gguf__tensor(m, layer, "attn_v_b.weight")) {
        w->k_b = gguf__half(m, layer, "attn_k_b.weight", N, R);
        w->v_b = gguf__half(m, layer, "attn_v_b.weight", R, V);
    }
    if (whole) { /* which is taken, if there are all three */
        w->kv_b = gguf__linear(m, layer, "attn_kv_b.weight", R, H * (N + V));
        w->k_b.data = w->v_b.data = NULL;
    }
    w->o = gguf__linear(m, layer, "attn_output.weight", H * V, D);
    if (m->arch->has & (GGUF__HY | GGUF__BAILING)) {
        const gguf_tensor *t = gguf__tensor(m, layer, "attn_gate.weight"); /* hy_v4's is of channels */
        const int of_heads = m->arch->has & GGUF__BAILING && (!t || t->dims[1] != H * V);
        w->gate = gguf__linear(m, layer, "attn_gate.weight", D, of_heads ? H : H * V);
    }
    if (m->arch->has & GGUF__HY) { w->sinks = gguf__plain(m, layer, "attn_sinks", H, 1); }
    if (!f->index_topk || (layer < f->num_hidden_layers && !m->c->indexers[layer])) return;
    const int64_t d = f->index_head_dim, heads = f->index_n_heads;
    w->indexer.wq_b = gguf__linear(m, layer, "indexer.attn_q_b.weight", Q, heads * d);
    w->indexer.wk = gguf__linear(m, layer, "indexer.attn_k.weight", D, d);
    w->indexer.k_norm = gguf__norm(m, layer, "indexer.k_norm.weight", d);
    w->indexer.k_norm.bias = gguf__bind(m, layer, "indexer.k_norm.bias", d, 1, 1);
    w->indexer.weights_proj = gguf__bind(m, layer, "indexer.proj.weight", D, heads, 1);
}

/* count rows of t from first on. */
static mla_tensor gguf__rows(const mla_tensor *t, int64_t first, int64_t count) {
    const size_t row = mla_dtype_bytes(t->dtype, (size_t)t->cols);
    return mla_view(t->data ? (const char *)t->data + (size_t)first * row : NULL, t->dtype, (int)count, t->cols);
}

static void gguf__moe(gguf__model *m, int layer, mla_mlp_weights *experts, mla_moe_weights *w) {
    static const char *const biases[] = {"exp_probs_b.bias", "exp_probs_b.weight", "exp_probs_b"};
    const mla_config *f = &m->c->config;
    const int64_t D = f->hidden_size, E = f->n_routed_experts, inter = f->moe_intermediate_size;
    const int fused = gguf__tensor(m, layer, "ffn_gate_up_exps.weight") != NULL;
    mla_tensor gate = gguf__bind(m, layer, fused ? "ffn_gate_up_exps.weight" : "ffn_gate_exps.weight", D,
                                 fused ? 2 * inter : inter, E);
    mla_tensor up = fused ? gate : gguf__bind(m, layer, "ffn_up_exps.weight", D, inter, E);
    mla_tensor down = gguf__bind(m, layer, "ffn_down_exps.weight", inter, D, E);
    w->router = gguf__bind(m, layer, "ffn_gate_inp.weight", D, E, 1);
    for (int i = 0; i < 3 && !w->router_bias.data; i++)
        if (gguf__tensor(m, layer, biases[i])) w->router_bias = gguf__bind(m, layer, biases[i], E, 1, 1);
    if (f->n_shared_experts) w->shared = gguf__mlp(m, layer, "ffn_%s_shexp.weight", D, f->n_shared_experts * inter);
    w->experts = experts;
    const int64_t step = fused ? 2 * inter : inter;
    for (int64_t e = 0; e < E && !m->rc; e++) {
        experts[e].gate.weight = gguf__rows(&gate, e * step, inter);
        experts[e].up.weight = gguf__rows(&up, e * step + (fused ? inter : 0), inter);
        experts[e].down.weight = gguf__rows(&down, e * D, D);
    }
}

/* An embedding or head of the layer's own: absent without, or if it repeats the model's. */
static mla_tensor gguf__own(gguf__model *m, int layer, const char *name, const mla_tensor *models) {
    const mla_config *f = &m->c->config;
    const gguf_tensor *found = gguf__tensor(m, layer, name);
    mla_tensor t = mla_view(NULL, MLA_F32, 0, 0);
    if (found) t = gguf__bind(m, layer, name, f->hidden_size, f->vocab_size, 1);
    if (t.data && t.dtype == models->dtype && !memcmp(t.data, models->data, found->bytes)) t.data = NULL;
    return t;
}

static void gguf__mtp(gguf__model *m, int layer, mla_mtp_weights *w) {
    const mla_weights *model = &m->c->weights;
    const int64_t D = m->c->config.hidden_size;
    w->enorm = gguf__norm(m, layer, "nextn.enorm.weight", D);
    w->hnorm = gguf__norm(m, layer, "nextn.hnorm.weight", D);
    w->eh_proj = gguf__linear(m, layer, "nextn.eh_proj.weight", 2 * D, D);
    w->norm = gguf__tensor(m, layer, "nextn.shared_head_norm.weight")
                  ? gguf__norm(m, layer, "nextn.shared_head_norm.weight", D)
                  : model->norm;
    w->embed = gguf__own(m, layer, "nextn.embed_tokens.weight", &model->embed);
    w->head = gguf__own(m, layer, "nextn.shared_head_head.weight", model->head.data ? &model->head : &model->embed);
}

/* Tensors that may be there and are not used: of layers for multi-token prediction that are not wanted, and indexers of
   layers that take the choice of another. */
static int gguf__is_extra(const gguf__model *m, const char *name) {
    const int layer = strncmp(name, "blk.", 4) ? -1 : ck__number_after(name, "blk."),
              ahead = m->c->config.num_hidden_layers;
    if (layer >= ahead + m->c->config.num_nextn_predict_layers) return layer < ahead + m->ahead;
    const char *dot = layer >= 0 ? strchr(name + 4, '.') : NULL;
    return dot && m->arch->has & GGUF__INDEX_SHARED && !strncmp(dot, ".indexer.", 9);
}

static void gguf__bind_model(gguf__model *m) {
    checkpoint *c = m->c;
    const mla_config *f = &c->config;
    const int M = f->num_nextn_predict_layers, L = f->num_hidden_layers + M;
    const int64_t D = f->hidden_size, E = f->n_routed_experts;
    size_t n_experts = 0, n_decays = 0;
    for (int i = m->dense; i < L && !m->rc; i++) { /* counts first: a hostile one must not make us allocate */
        const gguf_tensor *t = gguf__tensor(m, i, "ffn_down_exps.weight");
        n_experts += (size_t)E;
        if (!t || t->dims[2] != E) gguf__bind(m, i, "ffn_down_exps.weight", f->moe_intermediate_size, D, E);
    }
    for (int i = 0; i < L && c->recurrent; i++) {
        const gguf_tensor *t = gguf__tensor(m, i, "ssm_a");
        n_decays += t ? t->bytes / 2 : 0; /* of F16 or more */
    }
    if (m->rc) return;
    c->layers = (mla_layer_weights *)calloc((size_t)L, sizeof *c->layers);
    c->experts = (mla_mlp_weights *)calloc(n_experts + 1, sizeof *c->experts);
    c->mtp = (mla_mtp_weights *)calloc((size_t)M + 1, sizeof *c->mtp);
    c->decays = m->decay = (float *)calloc(n_decays + 1, sizeof *c->decays);
    if (!c->layers || !c->experts || !c->mtp || !c->decays) {
        m->rc = ck__no_memory(m->err, m->file);
        return;
    }
    c->weights.layers = c->layers;
    c->weights.mtp = c->mtp;
    c->weights.embed = gguf__bind(m, -1, "token_embd.weight", D, f->vocab_size, 1);
    c->weights.norm = gguf__norm(m, -1, "output_norm.weight", D);
    const int usual = gguf__tensor(m, -1, "output_hc_fn.weight") != NULL; /* llama.cpp's name */
    c->weights.hc_head = gguf__hc(m, -1, usual ? "output_hc" : "hc_head", 1);
    if (gguf__tensor(m, -1, "output.weight")) c->weights.head = gguf__bind(m, -1, "output.weight", D, f->vocab_size, 1);
    for (int i = 0; i < L && !m->rc; i++) {
        mla_layer_weights *w = &c->layers[i];
        w->attn_norm = gguf__norm(m, i, "attn_norm.weight", D);
        w->ffn_norm = gguf__norm(m, i, "ffn_norm.weight", D);
        if (c->recurrent && i < f->num_hidden_layers && c->recurrent[i]) gguf__kda(m, i, &w->kda);
        else gguf__attention(m, i, &w->attn);
        w->attn_hc = gguf__hc(m, i, "hc_attn", 2);
        w->ffn_hc = gguf__hc(m, i, "hc_ffn", 2);
        if (i < m->dense) w->mlp = gguf__mlp(m, i, "ffn_%s.weight", D, f->intermediate_size);
        else gguf__moe(m, i, c->experts + (size_t)(i - m->dense) * (size_t)E, &w->moe);
    }
    for (int i = 0; i < M && !m->rc; i++) gguf__mtp(m, f->num_hidden_layers + i, &c->mtp[i]);
    for (size_t i = 0; i < m->g->n_tensors && !m->rc; i++)
        if (!m->used[i] && !gguf__is_extra(m, m->g->tensors[i].name))
            m->rc =
                ck__fail(m->err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\" is unexpected: the keys do not account for it",
                         m->g->tensors[i].file, m->g->tensors[i].name);
}

/* ---- >>gguf-open ------------------------------------------------------------------------------------------------- */

static mla_result gguf__open_model(checkpoint *c, const char *path, const checkpoint_options *how, mla_error *err) {
    gguf__model m;
    memset(&m, 0, sizeof m);
    m.rc = gguf_open(&c->gguf, path, err);
    if (m.rc) return m.rc;
    m.c = c;
    m.g = c->gguf;
    m.how = how;
    m.file = c->gguf->parts->file;
    m.err = err;
    m.used = (char *)calloc(c->gguf->n_tensors + 1, 1);
    if (!m.used) return ck__no_memory(err, m.file);
    gguf__read_config(&m);
    if (!m.rc) gguf__bind_model(&m);
    free(m.used);
    return m.rc;
}

#if !defined CHECKPOINT_NO_MMAP && !defined _WIN32

static int gguf__is_kind(const char *path, int directory) { /* or something else, which is refused if it is no file */
    struct stat info;
    return !stat(path, &info) && !S_ISDIR(info.st_mode) == !directory;
}

/* Of two names in a directory the one that stands for its model: *found stays, or becomes name; 0: they are two. */
static int gguf__choose(char **found, const char *name) {
    const size_t n = strlen(name), end = gguf__split_end(name);
    if (n < 6 || strcmp(name + n - 5, ".gguf") || !strncmp(name, "mmproj", 6)) return 1;
    if (end && strncmp(name + n - end, "-00001-", 7)) return 1; /* the first part stands for the others */
    if (*found) return 0;
    *found = (char *)malloc(n + 1);
    if (*found) memcpy(*found, name, n + 1);
    return *found != NULL;
}

mla_result gguf_locate(char **out, const char *path, mla_error *err) {
    static const char *const others[] = {"model.safetensors", "model.safetensors.index.json"};
    char *found = NULL, *name;
    int good = 1;
    if (out) *out = NULL;
    if (!out || !path) return ck__fail(err, MLA_ERR_ARGUMENT, "gguf_locate: out or path is NULL");
    if (gguf__is_kind(path, 0)) {
        *out = (char *)malloc(strlen(path) + 1);
        if (!*out) return ck__no_memory(err, path);
        memcpy(*out, path, strlen(path) + 1);
        return MLA_OK;
    }
    for (int i = 0; i < 2; i++) {
        name = ck__join(path, others[i]);
        if (!name) return ck__no_memory(err, path);
        const int there = gguf__is_kind(name, 0);
        free(name);
        if (there) return MLA_OK;
    }
    DIR *directory = gguf__is_kind(path, 1) ? opendir(path) : NULL;
    for (struct dirent *e; directory && good && (e = readdir(directory)) != NULL;)
        good = gguf__choose(&found, e->d_name);
    if (directory) closedir(directory);
    if (good && found) *out = ck__join(path, found);
    const int two = !good && found;
    good = good && (!found || *out);
    free(found);
    if (two)
        return ck__fail(err, MLA_ERR_ARGUMENT,
                        "%.140s: more than one GGUF file is in there: name the one that is meant", path);
    return good ? MLA_OK : ck__no_memory(err, path);
}

#else

mla_result gguf_locate(char **out, const char *path, mla_error *err) {
    const size_t n = path ? strlen(path) : 0;
    if (out) *out = NULL;
    if (!out || !path) return ck__fail(err, MLA_ERR_ARGUMENT, "gguf_locate: out or path is NULL");
    if (n < 5 || strcmp(path + n - 5, ".gguf")) return MLA_OK; /* directories cannot be listed in C99 */
    *out = (char *)malloc(n + 1);
    if (!*out) return ck__no_memory(err, path);
    memcpy(*out, path, n + 1);
    return MLA_OK;
}

#endif

/* ---- >>gguf-writing ---------------------------------------------------------------------------------------------- */

typedef struct gguf__blob {
    unsigned char *data;
    size_t n, room;
} gguf__blob;

struct gguf_writer {
    FILE *file;
    char *path, *partial;
    gguf__blob keys, infos, sizes; /* as the file has them, until the first data; bytes of each tensor's data, u64 */
    uint64_t n_keys, n_tensors, offset; /* offset: of the next tensor's data */
    uint64_t at, left;                  /* the tensor whose data comes next, and what of it is to come */
    uint64_t strings;                   /* of the last key that are to come */
    uint64_t written, synced;           /* bytes; of these the system has been told to write them to the disk */
    int started;                        /* there has been data */
    mla_error err;                      /* the first one; code MLA_OK: none */
};

enum { GGUF__ALIGN = 32 };

static void gguf__wrong(gguf_writer *w, const char *name, const char *what) {
    if (!w->err.code)
        ck__fail(&w->err, MLA_ERR_ARGUMENT, "%.60s: %s%.80s%s%s", ck__base_name(w->path), name ? "\"" : "",
                 name ? name : "", name ? "\": " : "", what);
}

static void gguf__add_bytes(gguf_writer *w, gguf__blob *b, const void *data, size_t n) {
    if (w->err.code) return;
    if (n > b->room - b->n) {
        const size_t room = b->n + n < SIZE_MAX / 2 - 4096 ? 2 * (b->n + n) + 4096 : 0;
        unsigned char *more = room ? (unsigned char *)realloc(b->data, room) : NULL;
        if (!more) {
            ck__no_memory(&w->err, ck__base_name(w->path));
            return;
        }
        b->data = more;
        b->room = room;
    }
    if (n) memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void gguf__add_little(gguf_writer *w, gguf__blob *b, uint64_t v, size_t bytes) {
    unsigned char little[8];
    for (size_t i = 0; i < bytes; i++) little[i] = (unsigned char)(v >> (8 * i));
    gguf__add_bytes(w, b, little, bytes);
}

static void gguf__add_text(gguf_writer *w, gguf__blob *b, const char *text, size_t length) {
    if (!gguf__is_text((const unsigned char *)text, length))
        gguf__wrong(w, NULL, "a string is not UTF-8, or has a NUL");
    gguf__add_little(w, b, length, 8);
    gguf__add_bytes(w, b, text, length);
}

/* A name before its value; a list of strings must be full, and no data have been written. */
static void gguf__add_name(gguf_writer *w, gguf__blob *b, const char *name) {
    const size_t n = strlen(name);
    if (w->started) gguf__wrong(w, name, "put behind the first data");
    if (w->strings) gguf__wrong(w, name, "put before all strings of the array before it");
    if (!n || n > GGUF__LONGEST) gguf__wrong(w, name, "no name");
    gguf__add_text(w, b, name, n);
}

static void gguf__add_key(gguf_writer *w, const char *name, gguf_type type, int is_array, uint64_t count) {
    gguf__add_name(w, &w->keys, name);
    if ((unsigned)type >= GGUF_TYPE_COUNT || type == GGUF_ARRAY) gguf__wrong(w, name, "no type of a value");
    if (is_array) gguf__add_little(w, &w->keys, GGUF_ARRAY, 4);
    gguf__add_little(w, &w->keys, (uint64_t)type, 4);
    if (is_array) gguf__add_little(w, &w->keys, count, 8);
    w->n_keys++;
}

mla_result gguf_create(gguf_writer **out, const char *path, mla_error *err) {
    static const char partial[] = ".partial";
    if (out) *out = NULL;
    if (!out || !path) return ck__fail(err, MLA_ERR_ARGUMENT, "gguf_create: out or path is NULL");
    const size_t n = strlen(path);
    gguf_writer *w = (gguf_writer *)calloc(1, sizeof *w);
    if (w) w->path = (char *)malloc(n + 1);
    if (w) w->partial = (char *)calloc(1, n + sizeof partial); /* no name yet, for gguf_abandon */
    if (!w || !w->path || !w->partial) {
        gguf_abandon(w);
        return ck__no_memory(err, ck__base_name(path));
    }
    memcpy(w->path, path, n + 1);
    memcpy(w->partial, path, n);
    memcpy(w->partial + n, partial, sizeof partial);
    w->file = fopen(w->partial, "wb");
    if (w->file) *out = w;
    else {
        ck__fail(err, MLA_ERR_ARGUMENT, "%s: cannot be written: %s (errno %d)", ck__shown(w->partial),
                 ck__why(errno, "output error"), errno);
        gguf_abandon(w);
    }
    return *out ? MLA_OK : MLA_ERR_ARGUMENT;
}

void gguf_put_integer(gguf_writer *w, const char *key, gguf_type type, int64_t value) {
    gguf_key k;
    unsigned char bytes[8];
    int64_t back = 0;
    const size_t n = (unsigned)type < GGUF_TYPE_COUNT ? gguf__sizes[type] : 0;
    for (size_t i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)value >> (8 * i));
    memset(&k, 0, sizeof k);
    k.type = type;
    k.count = 1;
    k.data = bytes;
    if (!n || !gguf_integer(&k, 0, &back) || back != value || (type == GGUF_BOOL && (value < 0 || value > 1)))
        gguf__wrong(w, key, "the number is not of its type");
    gguf__add_key(w, key, type, 0, 1);
    gguf__add_bytes(w, &w->keys, bytes, n);
}

void gguf_put_number(gguf_writer *w, const char *key, double value) {
    const float f = (float)value;
    gguf__add_key(w, key, GGUF_F32, 0, 1);
    gguf__add_bytes(w, &w->keys, &f, sizeof f);
}

void gguf_put_text(gguf_writer *w, const char *key, const char *text) {
    gguf__add_key(w, key, GGUF_STRING, 0, 1);
    gguf__add_text(w, &w->keys, text, strlen(text));
}

void gguf_put_array(gguf_writer *w, const char *key, gguf_type type, const void *elements, size_t count) {
    const size_t size = (unsigned)type < GGUF_TYPE_COUNT ? gguf__sizes[type] : 0;
    if (!size) gguf__wrong(w, key, "no type of an array's elements");
    gguf__add_key(w, key, type, 1, count);
    gguf__add_bytes(w, &w->keys, elements, size * count);
}

void gguf_put_strings(gguf_writer *w, const char *key, size_t count) {
    gguf__add_key(w, key, GGUF_STRING, 1, count);
    w->strings = count;
}

void gguf_put_string(gguf_writer *w, const char *text, size_t length) {
    if (!w->strings) gguf__wrong(w, NULL, "a string more than its array has");
    else w->strings--;
    gguf__add_text(w, &w->keys, text, length);
}

void gguf_put_key(gguf_writer *w, const gguf_key *k) {
    gguf__add_key(w, k->name, k->type, k->is_array, k->count);
    gguf__add_bytes(w, &w->keys, k->data, k->bytes);
}

void gguf_put_tensor(gguf_writer *w, const char *name, int type, int n_dims, const int64_t *dims) {
    const gguf__format *f = type >= 0 ? gguf__format_of((uint32_t)type) : NULL;
    const uint64_t bytes = f && n_dims >= 1 && n_dims <= 4 ? gguf__bytes(f, dims, n_dims) : 0;
    if (!bytes) gguf__wrong(w, name, "no type or dimensions of a tensor");
    gguf__add_name(w, &w->infos, name);
    gguf__add_little(w, &w->infos, (uint64_t)n_dims, 4);
    for (int i = 0; i < n_dims && bytes; i++) gguf__add_little(w, &w->infos, (uint64_t)dims[i], 8);
    gguf__add_little(w, &w->infos, (uint64_t)type, 4);
    gguf__add_little(w, &w->infos, w->offset, 8);
    gguf__add_little(w, &w->sizes, bytes, 8);
    w->offset += (bytes + GGUF__ALIGN - 1) / GGUF__ALIGN * GGUF__ALIGN;
    w->n_tensors++;
}

static void gguf__cannot_write(gguf_writer *w) {
    ck__fail(&w->err, MLA_ERR_ARGUMENT, "%.60s: cannot be written: %s (errno %d)", ck__base_name(w->path),
             errno == ENOSPC ? "the disk is full" : "output error", errno);
}

/* Lets the system write to the disk what there is, so that not all of it is left to the end. */
static void gguf__hurry(gguf_writer *w) {
    if (w->written - w->synced < (uint64_t)32 << 20) return;
#if !defined CHECKPOINT_NO_MMAP && defined POSIX_FADV_DONTNEED
    if (fflush(w->file)) gguf__cannot_write(w); /* what it held is lost */
    posix_fadvise(fileno(w->file), (off_t)w->synced, (off_t)(w->written - w->synced), POSIX_FADV_DONTNEED);
#endif
    w->synced = w->written;
}

static void gguf__write(gguf_writer *w, const void *data, size_t bytes) {
    if (!bytes || w->err.code) return;
    if (fwrite(data, 1, bytes, w->file) == bytes) {
        w->written += bytes;
        gguf__hurry(w);
    } else gguf__cannot_write(w);
}

static void gguf__pad(gguf_writer *w, uint64_t bytes) {
    static const unsigned char zeros[GGUF__ALIGN] = {0};
    gguf__write(w, zeros, (size_t)((GGUF__ALIGN - bytes % GGUF__ALIGN) % GGUF__ALIGN));
}

static uint64_t gguf__size_at(const gguf_writer *w) {
    return w->at < w->n_tensors && !w->err.code ? gguf__little(w->sizes.data + 8 * w->at, 8) : 0;
}

/* All that stands before the data. */
static void gguf__start(gguf_writer *w) {
    gguf__blob head;
    memset(&head, 0, sizeof head);
    if (w->strings) gguf__wrong(w, NULL, "strings of the last array are missing");
    gguf__add_bytes(w, &head, "GGUF", 4);
    gguf__add_little(w, &head, 3, 4);
    gguf__add_little(w, &head, w->n_tensors, 8);
    gguf__add_little(w, &head, w->n_keys, 8);
    gguf__write(w, head.data, head.n);
    gguf__write(w, w->keys.data, w->keys.n);
    gguf__write(w, w->infos.data, w->infos.n);
    gguf__pad(w, (uint64_t)head.n + w->keys.n + w->infos.n);
    free(head.data);
    w->started = 1;
    w->left = gguf__size_at(w);
}

void gguf_put_data(gguf_writer *w, const void *data, size_t bytes) {
    const unsigned char *from = (const unsigned char *)data;
    if (!w->started && !w->err.code) gguf__start(w);
    while (bytes && !w->err.code) {
        const size_t n = bytes < w->left ? bytes : (size_t)w->left;
        if (!w->left) {
            gguf__wrong(w, NULL, "more data than its tensors have");
            return;
        }
        gguf__write(w, from, n);
        from += n;
        bytes -= n;
        w->left -= n;
        if (w->left) return;
        gguf__pad(w, gguf__size_at(w));
        w->at++;
        w->left = gguf__size_at(w);
    }
}

int gguf_failed(const gguf_writer *w) { return !w || w->err.code != MLA_OK; }

/* What has been written is on the disk, and then has its name there, too. */
static int gguf__sync(const char *path) {
#if !defined CHECKPOINT_NO_MMAP && !defined _WIN32
    const int fd = open(path, O_RDONLY);
    const int failed = fd < 0 || fsync(fd);
    if (fd >= 0) close(fd);
    return !failed;
#else
    (void)path;
    return 1;
#endif
}

static void gguf__sync_directory(gguf_writer *w) { /* a file system that cannot does it in its own time */
    const size_t n = (size_t)(ck__base_name(w->path) - w->path);
    if (n > 1) w->path[n - 1] = 0; /* nobody needs the rest any more */
    gguf__sync(n > 1 ? w->path : n ? "/" : ".");
}

mla_result gguf_finish(gguf_writer *w, mla_error *err) {
    if (!w) return ck__fail(err, MLA_ERR_ARGUMENT, "gguf_finish: the writer is NULL");
    if (!w->started && !w->err.code) gguf__start(w);
    if (w->at < w->n_tensors) gguf__wrong(w, NULL, "less data than its tensors have");
    const int closed = !fclose(w->file);
    w->file = NULL;
    if (!w->err.code && (!closed || !gguf__sync(w->partial) || rename(w->partial, w->path))) gguf__cannot_write(w);
    const mla_result rc = w->err.code;
    if (rc && err) *err = w->err;
    if (!rc) {
        w->partial[0] = 0; /* it has gone */
        gguf__sync_directory(w);
    }
    gguf_abandon(w);
    return rc;
}

void gguf_abandon(gguf_writer *w) {
    if (!w) return;
    if (w->file) fclose(w->file);
    if (w->partial && w->partial[0]) remove(w->partial);
    free(w->path);
    free(w->partial);
    free(w->keys.data);
    free(w->infos.data);
    free(w->sizes.data);
    free(w);
}

#endif /* CHECKPOINT_IMPLEMENTATION */
