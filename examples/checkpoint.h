/* checkpoint.h - opens a Hugging Face directory (config.json + safetensors) or a GGUF file as the mla_config and
   mla_weights of mla.h.

USE
   In exactly one file:      #define CHECKPOINT_IMPLEMENTATION
                             #include "checkpoint.h"
   In all others:            #include "checkpoint.h"             (after mla.h, or with mla.h on the include path)

   checkpoint *c;
   if (checkpoint_open(&c, "DeepSeek-V2-Lite", &error)) puts(error.text);
   mla_model_create(&model, &c->config, &c->weights, NULL, &error);
   ...  mla_model_destroy(model); checkpoint_close(c);

PARTS          Three readers, each usable alone: json_* (RFC 8259), st_* (safetensors), checkpoint_* (the directory).
               GGUF files are read by gguf.h, which comes along; define CHECKPOINT_NO_GGUF to do without it.
STRICT         Nothing is guessed. What this file does not know (a model_type, a rope type, a tensor that config.json
               does not account for, an integer written 1.0) is refused; the message names file, key or tensor, and
               what was expected.
FILES          All are regular files: no pipe and no device is waited for or read without end. Of JSON no more is read
               than any such file can have, values (4194304) and bytes, so that a hostile one takes no more memory.
MEMORY         Files are mapped and weights used where they lie: nothing is copied (quantize.h can convert them into
               memory of the checkpoint's own), but for packed ones, which mla.h has in another order: see QUANTIZED.
               A file must not be cut short while open.
QUANTIZED      config.json's quantization_config, or hf_quant_config.json, says how; a matrix that has the tensors of
               it is quantized, whatever lists of names there say. Activations are not rounded, static scales of theirs
               are passed over. Where they lie: fp8 (e4m3) and int8, with a scale (F32, BF16; fp8 blocks also
               ue8m0) for a block, a row or all. Repacked while loading, values unchanged, bytes a weight:
               int4, f16 or bf16 scales    0.56 (Q4), 0.69 with zero points (Q5_0)
               int4, f32 scales or groups no multiple of 32    1 (I8) and the scales
               mxfp4                       0.53 (MXFP4)
               nvfp4                       1.25 (I8, f32 scales for 16): the file's 0.56 become more, since its two
                                           scales make one of 28 bits, which fits no block of mla.h's
PLATFORM       C99 or C++11, libc, and mmap, or on Windows what it has for that, where paths are UTF-8; elsewhere
               (define CHECKPOINT_NO_MMAP) files are read into memory. No feature macro is needed, -std=c99 will do;
               where off_t has 32 bits, build with -D_FILE_OFFSET_BITS=64. Little-endian.
THREADS        No globals, no printing. Different objects may be used by different threads, and one object read by
               many at once.

CONTENTS       >>json >>safetensors >>checkpoint (the API)   then >>errors >>files >>memory >>json-parser
               >>safetensors-reader >>families (the table to extend for a new model_type) >>config-reader
               >>quantization >>config-file >>shards >>weights >>packed >>layers >>open
   SPDX-License-Identifier: MIT */

#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include <stddef.h>
#include <stdint.h>
#ifndef MLA_H
#include "mla.h"
#endif

#ifndef CHECKPOINT_API
#define CHECKPOINT_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* In all of these err may be NULL, and a call that fails sets *out to NULL. Errors: ARGUMENT (a null pointer, a file
   that cannot be read, for json_parse text that is not JSON), CONFIG (config.json), WEIGHTS (safetensors, index,
   tensors), UNSUPPORTED (a name that this reader does not know), MEMORY. */

/* ---- >>json ------------------------------------------------------------------------------------------------------ */

typedef enum json_type { JSON_NULL = 0, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } json_type;
typedef struct json_value json_value;

/* Strict RFC 8259: valid UTF-8, no lone surrogates, no duplicate keys, no NUL in keys, no NaN, at most 64 deep and
   4194304 values. The text may go afterwards. Only the root is freed, and frees all. */
CHECKPOINT_API mla_result json_parse(const char *text, size_t n, json_value **out, mla_error *err);
CHECKPOINT_API void json_free(json_value *root);

/* Accessors take NULL and values of another type: then there is nothing there (JSON_NULL, 0, NULL). */
CHECKPOINT_API json_type json_typeof(const json_value *v);
CHECKPOINT_API int json_bool(const json_value *v);
CHECKPOINT_API double json_number(const json_value *v);
CHECKPOINT_API int json_integer(const json_value *v,
                                int64_t *out); /* 1: written as an integer, exact; not "1.0", "1e3", "-0" */
CHECKPOINT_API const char *json_string(const json_value *v, size_t *length); /* ends with NUL, may contain others */
CHECKPOINT_API size_t json_count(const json_value *v); /* elements of an array, members of an object */
CHECKPOINT_API const json_value *json_at(const json_value *v,
                                         size_t i);    /* arrays in file order, objects in key order */
CHECKPOINT_API size_t json_place(const json_value *v); /* which of the members or elements it was in the file, from 0 */
CHECKPOINT_API const char *json_key(const json_value *member);
CHECKPOINT_API const json_value *json_get(const json_value *object, const char *key);

/* Writes text [n], UTF-8, as a string of JSON, quotes and all, without a NUL: at most 6 * n + 2 bytes. Gives their
   number. */
CHECKPOINT_API size_t json_quote(char *out, const char *text, size_t n);

/* ---- >>safetensors ----------------------------------------------------------------------------------------------- */

typedef struct st_tensor {
    const char *name;
    const char *dtype; /* "F32", "BF16", ... as in the file */
    int n_dims;
    int64_t dims[8];
    const void *data; /* at any address, aligned or not */
    size_t bytes;
} st_tensor;

typedef struct st_file st_file;

CHECKPOINT_API mla_result st_open(st_file **out, const char *path, mla_error *err);
/* The same on a buffer, which must outlive the file; label stands for the file's name in messages. */
CHECKPOINT_API mla_result st_parse(st_file **out, const void *data, size_t size, const char *label, mla_error *err);
CHECKPOINT_API void st_close(st_file *f);
CHECKPOINT_API size_t st_count(const st_file *f);
CHECKPOINT_API const st_tensor *st_at(const st_file *f, size_t i); /* in order of name; NULL past the end */
CHECKPOINT_API const st_tensor *st_find(const st_file *f, const char *name);
CHECKPOINT_API const char *st_metadata(const st_file *f, const char *key);

/* ---- >>checkpoint ------------------------------------------------------------------------------------------------ */

/* The experts' groups of old GGUF files, which do not name them (gguf.h). */
typedef enum checkpoint_groups {
    CHECKPOINT_GROUPS_MODEL = 0, /* those that the model was trained with */
    CHECKPOINT_GROUPS_FILE,      /* none, as llama.cpp runs these files */
    CHECKPOINT_GROUPS_COUNT
} checkpoint_groups;

typedef struct checkpoint_options { /* zero: the default */
    /* With the layers for multi-token prediction that the files count (num_nextn_predict_layers); else they are passed
       over, for they make a model and its caches larger. An embedding or head of theirs that repeats the model's is
       left out. */
    int mtp;
    checkpoint_groups groups;
} checkpoint_options;

typedef struct checkpoint {
    mla_config config;
    mla_weights
        weights; /* views of the mapped files, or of what quantize.h made of them: valid until checkpoint_close */
    char model_type[64];
    int bos_token_id;           /* -1: none */
    int eos_token_id[8], n_eos; /* of generation_config.json if it has any, else of config.json */
    int max_position_embeddings;
    struct gguf *gguf;          /* the file, for its other keys; NULL: it was a directory of Hugging Face */
    const char *groups_assumed; /* a GGUF file does not name its experts' groups: whose were taken, "none"; else NULL */
    int n_others; /* tensors of other models around this one, such as one that sees: left alone, other_bytes in all */
    double other_bytes;
    /* Keys of config.json, and of its rope, that are not known: those that look like one that is ("zope_scaling, is it
       rope_scaling?"), and the others, by name. NULL: none. */
    char *misspelt, *unread;
    /* private */
    st_file **files;
    size_t n_files;
    mla_layer_weights *layers;
    mla_mlp_weights *experts;
    mla_mtp_weights *mtp;
    mla_ngram_weights *ngram;
    float *rope_factors, *decays; /* decays: of a GGUF file's layers of KDA, which it has as what mla.h makes of them */
    char *indexers;               /* [num_hidden_layers]: config.json says which layers have one; NULL: it does not */
    char *recurrent;              /* [num_hidden_layers]: which layers are KDA; NULL: none */
    void *memory, *repacked; /* weights no longer used where they lie in the files: by quantize.h; of packed ones */
    size_t repacked_bytes;
} checkpoint;

/* Reads DIR/config.json, DIR/generation_config.json and hf_quant_config.json if there, and DIR/model.safetensors or
   else DIR/model.safetensors.index.json with its shards; or a GGUF file (gguf_locate says which): FILE.gguf, a part of
   a split set, or a directory with one. Every tensor's name, shape and dtype is checked. A language model within
   another (text_config, language_config) is opened alone. how NULL: all defaults. */
CHECKPOINT_API mla_result checkpoint_open(checkpoint **out, const char *path, mla_error *err);
CHECKPOINT_API mla_result checkpoint_open_with(checkpoint **out, const char *path, const checkpoint_options *how,
                                               mla_error *err);
CHECKPOINT_API void checkpoint_close(checkpoint *c);

/* The bytes [n] of a regular file that has at most so many, with a NUL behind them, for free(); out NULL: only looks
   whether it is there. missing may be NULL, or becomes 1 if there is no such file, else 0. Errors: ARGUMENT, MEMORY. */
CHECKPOINT_API mla_result checkpoint_read(char **out, size_t *n, const char *path, size_t most, int *missing,
                                          mla_error *err);

/* For the alloc of mla.h's descs: what is large lies in huge pages where Linux gives them to those who ask (madvise),
   so that no time goes to page tables; else memory of malloc. free() takes it, too. touched: the pages are there at
   once, so that the first call with a context is as fast as others; not for pools and caches: most is never used. */
extern const mla_allocator checkpoint_huge_pages, checkpoint_touched_pages;

#ifdef __cplusplus
}
#endif
#endif /* CHECKPOINT_H */

/* ================================================================================================================== */
#if defined CHECKPOINT_IMPLEMENTATION && !defined CHECKPOINT_IMPLEMENTED
#define CHECKPOINT_IMPLEMENTED

#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#elif !defined CHECKPOINT_NO_MMAP
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif
#if defined _WIN32 || defined __unix__ || defined __APPLE__ || defined __wasi__
#include <sys/stat.h>
#endif

/* ---- >>errors ---------------------------------------------------------------------------------------------------- */
/* Names out of files are quoted with %.99s and files with %.60s, so that what was found and expected still fits behind
 * them. */

#if defined __GNUC__ && !defined __clang__
__attribute__((format(gnu_printf, 3, 4)))
#endif
static mla_result
ck__fail(mla_error *err, mla_result code, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        err->code = code, err->sequence = -1;
        for (char *c = err->text; *c; c++) /* a hostile name must not break the line or drive a terminal */
            if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    }
    return code;
}

static mla_result ck__no_memory(mla_error *err, const char *what) {
    return ck__fail(err, MLA_ERR_MEMORY, "%.60s: out of memory", what);
}

static const char *ck__base_name(const char *path) {
    const char *base = path;
    for (; *path; path++)
        if (*path == '/' || *path == '\\') base = path + 1;
    return base;
}

/* ---- >>files ----------------------------------------------------------------------------------------------------- */

typedef struct ck__file {
    unsigned char *data;
    size_t size;
} ck__file;

#ifndef EFBIG /* which C99 does not have, as the others */
#define EFBIG EINVAL
#endif
static const char *ck__why(int reason, const char *otherwise) {
#ifdef ELOOP
    if (reason == ELOOP) return "symbolic links that lead in a circle";
#endif
#ifdef EMFILE
    if (reason == EMFILE) return "too many files are open";
#endif
#ifdef ENAMETOOLONG
    if (reason == ENAMETOOLONG) return "the name is too long";
#endif
    return reason == ENOENT    ? "no such file"
           : reason == ENOTDIR ? "not a directory"
           : reason == EISDIR  ? "a directory"
           : reason == EACCES  ? "permission denied"
           : reason == EINVAL  ? "not a regular file"
           : reason == EFBIG   ? "larger than a file of its kind can be"
                               : otherwise;
}

/* The end of a path, as messages have it. */
static const char *ck__shown(const char *path) {
    const size_t n = strlen(path);
    return n > 160 ? path + n - 160 : n ? path : "''";
}

static mla_result ck__cannot_read(const char *path, int reason, mla_error *err) {
    return ck__fail(err, MLA_ERR_ARGUMENT, "%s: cannot be read: %s (errno %d)", ck__shown(path),
                    ck__why(reason, "input error"), reason);
}

/* missing may be NULL; it is set to 1 if there is no such file, and to 0 otherwise. */
#if defined _WIN32 && !defined CHECKPOINT_NO_MMAP

static void ck__file_close(ck__file *f) {
    if (f->data) UnmapViewOfFile(f->data);
    f->data = NULL;
}

static int ck__reason(void) {
    const DWORD e = GetLastError();
    return e == ERROR_FILE_NOT_FOUND || e == ERROR_PATH_NOT_FOUND || e == ERROR_INVALID_NAME ? ENOENT
           : e == ERROR_ACCESS_DENIED                                                        ? EACCES
           : e == ERROR_NOT_ENOUGH_MEMORY                                                    ? ENOMEM
                                                                                             : EIO;
}

/* A regular file of at most so many bytes, open; NULL: it is none, and err says why. */
static HANDLE ck__handle(const char *path, size_t most, size_t *size, int *missing, mla_error *err) {
    const int n = MultiByteToWideChar(CP_UTF8, 0, path, -1, NULL, 0);
    wchar_t *wide = (wchar_t *)malloc(sizeof *wide * ((size_t)n + 1));
    LARGE_INTEGER bytes;
    int reason = 0;
    if (missing) *missing = 0;
    if (!wide) {
        ck__no_memory(err, ck__base_name(path));
        return NULL;
    }
    wide[MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, n)] = 0;
    const DWORD kind = GetFileAttributesW(wide);
    HANDLE file = INVALID_HANDLE_VALUE;
    if (kind != INVALID_FILE_ATTRIBUTES && kind & FILE_ATTRIBUTE_DIRECTORY) reason = EISDIR;
    else
        file = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                           OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    const int open = file != INVALID_HANDLE_VALUE;
    free(wide);
    if (!open) reason = reason ? reason : ck__reason();
    else if (GetFileType(file) != FILE_TYPE_DISK) reason = EINVAL;
    else if (!GetFileSizeEx(file, &bytes)) reason = ck__reason();
    else if ((uint64_t)bytes.QuadPart > most) reason = EFBIG;
    else *size = (size_t)bytes.QuadPart;
    if (missing) *missing = reason == ENOENT;
    if (!reason) return file;
    ck__cannot_read(path, reason, err);
    if (open) CloseHandle(file);
    return NULL;
}

static mla_result ck__file_open(ck__file *f, const char *path, int *missing, mla_error *err) {
    size_t size = 0;
    HANDLE file = ck__handle(path, SIZE_MAX / 2, &size, missing, err);
    f->data = NULL;
    f->size = 0;
    if (!file) return MLA_ERR_ARGUMENT;
    HANDLE map = size ? CreateFileMappingW(file, NULL, PAGE_READONLY, 0, 0, NULL) : NULL;
    void *view = map ? MapViewOfFile(map, FILE_MAP_READ, 0, 0, 0) : NULL;
    const int reason = size && !view ? ck__reason() : 0;
    if (map) CloseHandle(map); /* the view stays */
    CloseHandle(file);
    if (reason) return ck__cannot_read(path, reason, err);
    f->data = (unsigned char *)view;
    f->size = size;
    return MLA_OK;
}

mla_result checkpoint_read(char **out, size_t *n, const char *path, size_t most, int *missing, mla_error *err) {
    size_t size = 0, got = 0;
    DWORD more = 1;
    int reason = 0;
    if (out) *out = NULL;
    if (!path) return ck__fail(err, MLA_ERR_ARGUMENT, "checkpoint_read: path is NULL");
    HANDLE file = ck__handle(path, most < SIZE_MAX / 2 ? most : SIZE_MAX / 2, &size, missing, err);
    char *text = file && out ? (char *)malloc(size + 1) : NULL;
    if (!file) return MLA_ERR_ARGUMENT;
    for (; text && got < size && more && !reason; got += more)
        if (!ReadFile(file, text + got, size - got < 65536 ? (DWORD)(size - got) : 65536, &more, NULL))
            reason = ck__reason(), more = 0;
    CloseHandle(file);
    if (!out) return MLA_OK;
    if (!text) return ck__no_memory(err, ck__base_name(path));
    if (reason) {
        free(text);
        return ck__cannot_read(path, reason, err);
    }
    text[got] = 0;
    *out = text, *n = got;
    return MLA_OK;
}

#elif !defined CHECKPOINT_NO_MMAP

/* A regular file of at most so many bytes, open; -1: it is none, and err says why. */
static int ck__descriptor(const char *path, size_t most, size_t *size, int *missing, mla_error *err) {
    struct stat info;
    int reason = 0;
    const int fd = open(path, O_RDONLY | O_NONBLOCK); /* a FIFO must not hang us */
    if (fd < 0 || fstat(fd, &info)) reason = errno;
    else if (!S_ISREG(info.st_mode)) reason = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
    else if ((uint64_t)info.st_size > most) reason = EFBIG;
    else *size = (size_t)info.st_size;
    if (missing) *missing = fd < 0 && (reason == ENOENT || reason == ENOTDIR);
    if (!reason) return fd;
    ck__cannot_read(path, reason, err);
    if (fd >= 0) close(fd);
    return -1;
}

static void ck__file_close(ck__file *f) {
    if (f->data) munmap(f->data, f->size);
    f->data = NULL;
}

static mla_result ck__file_open(ck__file *f, const char *path, int *missing, mla_error *err) {
    size_t size = 0;
    const int fd = ck__descriptor(path, SIZE_MAX / 2, &size, missing, err);
    f->data = NULL;
    f->size = 0;
    if (fd < 0) return MLA_ERR_ARGUMENT;
    void *map = size ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    const int reason = map == MAP_FAILED ? errno : 0;
    close(fd); /* the mapping stays */
    if (reason) return ck__cannot_read(path, reason, err);
    f->data = (unsigned char *)map;
    f->size = size;
    return MLA_OK;
}

mla_result checkpoint_read(char **out, size_t *n, const char *path, size_t most, int *missing, mla_error *err) {
    size_t size = 0, got = 0;
    ssize_t more = 1;
    if (out) *out = NULL;
    if (!path) return ck__fail(err, MLA_ERR_ARGUMENT, "checkpoint_read: path is NULL");
    const int fd = ck__descriptor(path, most < SIZE_MAX / 2 ? most : SIZE_MAX / 2, &size, missing, err);
    char *text = fd >= 0 && out ? (char *)malloc(size + 1) : NULL;
    if (fd < 0) return MLA_ERR_ARGUMENT;
    while (text && got < size && more > 0) /* of one that becomes shorter, what is left */
        if ((more = read(fd, text + got, size - got)) > 0) got += (size_t)more;
    const int reason = more < 0 ? errno : 0;
    close(fd);
    if (!out) return MLA_OK;
    if (!text) return ck__no_memory(err, ck__base_name(path));
    if (reason) {
        free(text);
        return ck__cannot_read(path, reason, err);
    }
    text[got] = 0;
    *out = text, *n = got;
    return MLA_OK;
}

#else

static void ck__file_close(ck__file *f) {
    if (f->size <= PTRDIFF_MAX) free(f->data); /* more is none of malloc's */
    f->data = NULL;
}

/* A regular file, as far as the system tells, and its length; 0: that is not known. */
static FILE *ck__stream(const char *path, size_t *length, int *missing, mla_error *err) {
    int reason = 0;
    FILE *file = NULL;
    *length = 0;
#if defined _WIN32 || defined __unix__ || defined __APPLE__ || defined __wasi__
    struct stat info; /* before it is opened: a FIFO must not hang us */
    if (stat(path, &info)) reason = errno == ENOENT || errno == ENOTDIR || errno == EACCES ? errno : 0;
    else if ((info.st_mode & S_IFMT) != S_IFREG) reason = (info.st_mode & S_IFMT) == S_IFDIR ? EISDIR : EINVAL;
    else if (info.st_size > 0 && (uint64_t)info.st_size < SIZE_MAX - 65536) *length = (size_t)info.st_size;
#endif
    if (!reason) {
        errno = 0;
        file = fopen(path, "rb");
        reason = file ? 0 : errno;
    }
    if (missing) *missing = !file && (reason == ENOENT || reason == ENOTDIR);
    if (!file) ck__cannot_read(path, reason, err);
    return file;
}

mla_result checkpoint_read(char **out, size_t *n, const char *path, size_t most, int *missing, mla_error *err) {
    size_t length, capacity = 0, size = 0, got = 1;
    char *text = NULL;
    int reason = 0;
    if (out) *out = NULL;
    if (!path) return ck__fail(err, MLA_ERR_ARGUMENT, "checkpoint_read: path is NULL");
    FILE *file = ck__stream(path, &length, missing, err);
    if (!file) return MLA_ERR_ARGUMENT;
    for (; out && got && !reason; size += got) {
        if (size + 1 >= capacity) {
            capacity = capacity ? capacity * 2 : length && length <= most ? length + 2 : 65536;
            char *more = capacity > size ? (char *)realloc(text, capacity) : NULL;
            if (!more) break;
            text = more;
        }
        got = fread(text + size, 1, capacity - size - 1, file);
        if (ferror(file)) reason = errno ? errno : EIO;
        if (size + got > most) reason = EFBIG;
    }
    fclose(file);
    if (out && !got && !reason) text[size] = 0, *out = text, *n = size;
    else free(text);
    if (reason) return ck__cannot_read(path, reason, err);
    return out && got ? ck__no_memory(err, ck__base_name(path)) : MLA_OK;
}

#if defined __wasm__
/* malloc has no 2 GiB in one piece: they are asked of the engine, which never takes memory back. */
static mla_result ck__file_open_large(ck__file *f, const char *path, mla_error *err) {
    size_t length, got = 1;
    FILE *file = ck__stream(path, &length, NULL, err);
    if (!file) return MLA_ERR_ARGUMENT;
    const size_t page = 65536, at = __builtin_wasm_memory_grow(0, length / page + 1);
    if (at != SIZE_MAX) f->data = (unsigned char *)(at * page);
    while (f->data && got && f->size < length) {
        const size_t rest = length - f->size, piece = (size_t)1 << 24;
        f->size += got = fread(f->data + f->size, 1, rest < piece ? rest : piece, file);
    }
    fclose(file);
    if (!f->data) return ck__no_memory(err, ck__base_name(path));
    if (f->size == length) return MLA_OK;
    f->data = NULL;
    return ck__cannot_read(path, EIO, err);
}
#endif

static mla_result ck__file_open(ck__file *f, const char *path, int *missing, mla_error *err) {
    char *bytes;
    f->data = NULL;
    f->size = 0;
#if defined __wasm__
    struct stat info;
    if (!stat(path, &info) && info.st_size > PTRDIFF_MAX && (uint64_t)info.st_size < SIZE_MAX - 65536)
        return ck__file_open_large(f, path, err);
#endif
    const mla_result rc = checkpoint_read(&bytes, &f->size, path, SIZE_MAX / 2, missing, err);
    f->data = (unsigned char *)bytes;
    return rc;
}

#endif

/* What stands where a file should, with which people come most often; NULL: none of these. */
static const char *ck__impostor(const unsigned char *text, size_t n) {
    static const char pointer[] = "version https://git-lfs";
    if (n >= sizeof pointer - 1 && !memcmp(text, pointer, sizeof pointer - 1))
        return "this is a Git LFS pointer, not the file itself: git lfs pull, or a download, fetches that";
    if (n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
        return "it begins with a byte order mark: save it as UTF-8 without one";
    while (n && (*text == ' ' || *text == '\t' || *text == '\n' || *text == '\r')) text++, n--;
    if (n >= 2 && text[0] == '<' && (text[1] == '!' || text[1] == '?' || (text[1] | 32) == 'h'))
        return "this is a web page (HTML), not the file itself";
    return NULL;
}

/* ---- >>memory ---------------------------------------------------------------------------------------------------- */

static void *ck__huge(void *user, size_t bytes) {
    (void)user;
#if defined MADV_HUGEPAGE && !defined CHECKPOINT_NO_MMAP
    const size_t page = (size_t)2 << 20;
    void *memory;
    if (bytes >= page) {
        if (bytes > SIZE_MAX - page || posix_memalign(&memory, page, (bytes + page - 1) / page * page)) return NULL;
        madvise(memory, (bytes + page - 1) / page * page, MADV_HUGEPAGE); /* if it fails, they are small ones */
        return memory;
    }
#endif
    return malloc(bytes);
}
static void *ck__touched(void *user, size_t bytes) {
    void *memory = ck__huge(user, bytes);
    return memory ? memset(memory, 0, bytes) : NULL;
}
static void ck__huge_free(void *user, void *memory) {
    (void)user;
    free(memory);
}
const mla_allocator checkpoint_huge_pages = {ck__huge, ck__huge_free, NULL};
const mla_allocator checkpoint_touched_pages = {ck__touched, ck__huge_free, NULL};

/* ---- >>json-parser ----------------------------------------------------------------------------------------------- */
/* Recursive descent with a depth limit. Values of open containers lie on one growing stack; when a container closes,
   its own are moved into the arena in one piece. Members are then sorted by key, which finds duplicates and makes
   json_get a binary search, and unlike a hash table cannot be made slow by chosen keys. */

enum {
    JSON__DEPTH = 64,
    JSON__NUMBER = 256,      /* characters of a number */
    JSON__VALUES = 1 << 22,  /* in all, which bounds the memory of what has two bytes a value in the text */
    JSON__SETTINGS = 1 << 18 /* of a file that has no list of words or tensors */
};

static const size_t json__bytes = (size_t)1 << 24, json__bytes_of_list = (size_t)1 << 28;

struct json_value {
    const char *key; /* of a member */
    json_type type;
    unsigned exact : 1;  /* number: integer holds it; bool: its value */
    unsigned place : 31; /* among the members or elements, in the file */
    union {
        struct {
            double real;
            int64_t integer;
        } number;
        struct {
            const char *text;
            size_t length;
        } string;
        struct {
            json_value *items;
            size_t count;
        } list;
    } u;
};

typedef struct json__chunk {
    struct json__chunk *next;
    size_t used, size;
    double align; /* what follows is aligned for any value */
} json__chunk;

typedef struct json__root {
    json_value value; /* first, so that json_free finds the rest */
    json__chunk *chunks;
} json__root;

typedef struct json__parser {
    const char *text, *file, *key; /* key: the last one met, for messages */
    size_t n, at, values, most;    /* values so far, and at most */
    json__root *root;
    json_value *stack;
    size_t top, capacity;
    mla_result code;
    mla_error *err;
} json__parser;

static mla_result json__value(json__parser *p, int depth, json_value *out);

static mla_result json__bad(const json__parser *p, const char *what) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < p->at && i < p->n; i++) {
        column = p->text[i] == '\n' ? 1 : column + 1;
        line += p->text[i] == '\n';
    }
    if (!p->key) return ck__fail(p->err, p->code, "%.60s: line %zu, column %zu: %s", p->file, line, column, what);
    return ck__fail(p->err, p->code, "%.60s: line %zu, column %zu, after key \"%.80s\": %s", p->file, line, column,
                    p->key, what);
}

static void *json__alloc(json__root *root, size_t bytes) {
    json__chunk *c = root->chunks;
    bytes = (bytes + sizeof(double) - 1) / sizeof(double) * sizeof(double);
    if (!c || c->size - c->used < bytes) {
        const size_t size = bytes > 32768 ? bytes : 65536; /* a large one gets its own */
        c = (json__chunk *)malloc(sizeof *c + size);
        if (!c) return NULL;
        c->used = 0;
        c->size = size;
        json__chunk **before = bytes > 32768 && root->chunks ? &root->chunks->next : &root->chunks;
        c->next = *before; /* the one that has room stays first */
        *before = c;
    }
    char *memory = (char *)(c + 1) + c->used;
    c->used += bytes;
    return memory;
}

static void json__space(json__parser *p) {
    for (; p->at < p->n; p->at++) {
        const char c = p->text[p->at];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return;
    }
}

static int json__is(const json__parser *p, char c) { return p->at < p->n && p->text[p->at] == c; }

static size_t json__digits(json__parser *p) {
    const size_t from = p->at;
    while (p->at < p->n && p->text[p->at] >= '0' && p->text[p->at] <= '9') p->at++;
    return p->at - from;
}

/* Bytes of the UTF-8 sequence at s, 0 if it is none (overlong, surrogate, past U+10FFFF, cut off). */
static size_t json__utf8(const unsigned char *s, size_t n) {
    const unsigned char c = s[0];
    const unsigned lo = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80, hi = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    const size_t k = c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
    if (k == 0 || k > n) return 0;
    if (k > 1 && (s[1] < lo || s[1] > hi)) return 0;
    for (size_t i = 2; i < k; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    return k;
}

/* The four digits of \uXXXX at p->at, or -1. */
static int json__hex(const json__parser *p) {
    int value = 0;
    for (size_t i = p->at; i < p->at + 4; i++) {
        const char c = i < p->n ? p->text[i] : '?';
        if (c >= '0' && c <= '9') value = value * 16 + (c - '0');
        else if (c >= 'a' && c <= 'f') value = value * 16 + (c - 'a' + 10);
        else if (c >= 'A' && c <= 'F') value = value * 16 + (c - 'A' + 10);
        else return -1;
    }
    return value;
}

static mla_result json__string(json__parser *p, const char **text, size_t *length) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    size_t end = p->at + 1;
    char *start, *o;
    while (end < p->n && p->text[end] != '"') end += p->text[end] == '\\' ? 2 : 1;
    if (end >= p->n) return json__bad(p, "a string without end");
    start = o = (char *)json__alloc(p->root, end - p->at); /* unescaping never makes it longer */
    if (!o) return ck__no_memory(p->err, p->file);
    for (p->at++; p->at < end;) {
        const unsigned char c = (unsigned char)p->text[p->at];
        if (c < 0x20) return json__bad(p, "a control character in a string");
        if (c < 0x80 && c != '\\') {
            *o++ = (char)c;
            p->at++;
        } else if (c != '\\') {
            const size_t k = json__utf8((const unsigned char *)p->text + p->at, end - p->at);
            if (!k) return json__bad(p, "bytes that are not UTF-8");
            memcpy(o, p->text + p->at, k);
            o += k;
            p->at += k;
        } else if (p->text[p->at + 1] != 'u') {
            const char *which = p->text[p->at + 1] ? strchr(from, p->text[p->at + 1]) : NULL;
            if (!which) return json__bad(p, "an unknown escape");
            *o++ = to[which - from];
            p->at += 2;
        } else {
            int u, low;
            p->at += 2;
            u = json__hex(p);
            if (u < 0) return json__bad(p, "\\u without four hexadecimal digits");
            p->at += 4;
            if (u >= 0xD800 && u < 0xE000) {
                if (u >= 0xDC00 || p->at + 6 > end || p->text[p->at] != '\\' || p->text[p->at + 1] != 'u')
                    return json__bad(p, "a lone surrogate");
                p->at += 2;
                low = json__hex(p);
                if (low < 0xDC00 || low > 0xDFFF) return json__bad(p, "a lone surrogate");
                p->at += 4;
                u = 0x10000 + (u - 0xD800) * 0x400 + (low - 0xDC00);
                *o++ = (char)(0xF0 | u >> 18);
                *o++ = (char)(0x80 | (u >> 12 & 0x3F));
            } else if (u >= 0x800) *o++ = (char)(0xE0 | u >> 12);
            if (u >= 0x800) *o++ = (char)(0x80 | (u >> 6 & 0x3F));
            else if (u >= 0x80) *o++ = (char)(0xC0 | u >> 6);
            *o++ = (char)(u < 0x80 ? u : 0x80 | (u & 0x3F));
        }
    }
    p->at = end + 1;
    *o = 0;
    *text = start;
    *length = (size_t)(o - start);
    return MLA_OK;
}

static mla_result json__number(json__parser *p, json_value *out) {
    const char *s = p->text + p->at;
    const int negative = json__is(p, '-');
    const uint64_t limit = (uint64_t)INT64_MAX + (uint64_t)negative;
    uint64_t magnitude = 0;
    int exact = 1;
    p->at += (size_t)negative;
    if (json__is(p, '0')) p->at++;
    else if (!json__digits(p)) return json__bad(p, "expected a value");
    size_t length = (size_t)(p->text + p->at - s);
    for (size_t i = (size_t)negative; i < length && exact; i++) {
        const uint64_t digit = (uint64_t)(s[i] - '0');
        exact = magnitude <= (limit - digit) / 10;
        if (exact) magnitude = magnitude * 10 + digit;
    }
    exact = exact && !(negative && magnitude == 0);
    if (json__is(p, '.')) {
        exact = 0;
        p->at++;
        if (!json__digits(p)) return json__bad(p, "no digit after the point");
    }
    if (json__is(p, 'e') || json__is(p, 'E')) {
        exact = 0;
        p->at++;
        if (json__is(p, '+') || json__is(p, '-')) p->at++;
        if (!json__digits(p)) return json__bad(p, "no digit in the exponent");
    }
    length = (size_t)(p->text + p->at - s);
    out->type = JSON_NUMBER;
    out->exact = (unsigned)exact & 1;
    if (exact) {
        out->u.number.integer = negative ? -(int64_t)(magnitude - 1) - 1 : (int64_t)magnitude;
        out->u.number.real = (double)out->u.number.integer;
    } else { /* strtod wants the decimal point of the locale, whatever that is; printf knows it */
        char zero[16], number[JSON__NUMBER + sizeof zero];
        const int printed = snprintf(zero, sizeof zero, "%.1f", 0.0);
        size_t n = 0;
        if (length > JSON__NUMBER) return json__bad(p, "a number of more than 256 characters");
        for (size_t i = 0; i < length; i++)
            if (s[i] != '.') number[n++] = s[i];
            else
                for (int j = 1; j < printed - 1; j++) number[n++] = zero[j];
        number[n] = 0;
        out->u.number.real = strtod(number, NULL);
        if (out->u.number.real > DBL_MAX || out->u.number.real < -DBL_MAX)
            return json__bad(p, "a number too large for a double");
    }
    return MLA_OK;
}

static int json__by_key(const void *a, const void *b) {
    return strcmp(((const json_value *)a)->key, ((const json_value *)b)->key);
}

typedef struct json__order {
    uint64_t head; /* the first eight bytes of the key, the first of all being the highest */
    const json_value *member;
} json__order;

static int json__by_member(const void *a, const void *b) {
    return json__by_key(((const json__order *)a)->member, ((const json__order *)b)->member);
}

/* Byte by byte from the lowest, by way of spare [n]; the vocabularies of tokenizers have 10^5 members. */
static void json__by_head(json__order *order, json__order *spare, size_t n) {
    for (int shift = 0; shift < 64; shift += 8) {
        size_t at[256] = {0}, before = 0;
        for (size_t i = 0; i < n; i++) at[order[i].head >> shift & 255]++;
        for (int k = 0; k < 256; k++) {
            const size_t count = at[k];
            at[k] = before;
            before += count;
        }
        for (size_t i = 0; i < n; i++) spare[at[order[i].head >> shift & 255]++] = order[i];
        json__order *const swap = order;
        order = spare;
        spare = swap;
    }
}

/* to [n] = the members from [n] by key. */
static mla_result json__sort(json__parser *p, json_value *to, const json_value *from, size_t n) {
    enum { FEW = 256 };
    json__order *order = (json__order *)malloc((2 * n + 1) * sizeof *order);
    if (!order) return ck__no_memory(p->err, p->file);
    for (size_t i = 0; i < n; i++) {
        const unsigned char *key = (const unsigned char *)from[i].key;
        order[i].member = from + i;
        order[i].head = 0;
        for (int k = 0; k < 8; k++) {
            order[i].head = order[i].head << 8 | *key;
            key += *key != 0;
        }
    }
    if (n > FEW) json__by_head(order, order + n, n);
    for (size_t i = 0, end; i < n; i = end) { /* those with the same head */
        for (end = i + 1; end < n && (n <= FEW || order[end].head == order[i].head);) end++;
        if (end - i > 1) qsort(order + i, end - i, sizeof *order, json__by_member);
    }
    for (size_t i = 0; i < n; i++) to[i] = *order[i].member;
    free(order);
    for (size_t i = 1; i < n; i++)
        if (!json__by_key(to + i - 1, to + i)) {
            p->key = to[i].key;
            return json__bad(p, "this key stands twice in one object");
        }
    return MLA_OK;
}

static mla_result json__container(json__parser *p, int depth, json_value *out) {
    const int object = json__is(p, '{');
    const char end = object ? '}' : ']';
    const size_t base = p->top;
    if (depth == JSON__DEPTH) return json__bad(p, "nested more than 64 deep");
    p->at++;
    json__space(p);
    if (json__is(p, end)) p->at++;
    else
        for (;;) {
            json_value v;
            mla_result rc;
            const char *key = NULL;
            if (object) {
                size_t length;
                json__space(p);
                if (!json__is(p, '"')) return json__bad(p, "expected a key in quotes");
                rc = json__string(p, &key, &length);
                if (rc) return rc;
                if (strlen(key) != length) return json__bad(p, "a NUL in a key");
                p->key = key;
                json__space(p);
                if (!json__is(p, ':')) return json__bad(p, "expected ':'");
                p->at++;
            }
            rc = json__value(p, depth + 1, &v);
            if (rc) return rc;
            v.key = key;
            v.place = (unsigned)(p->top - base) & 0x7fffffff;
            if (p->top == p->capacity) {
                const size_t capacity = p->capacity ? 2 * p->capacity : 256;
                json_value *bigger =
                    capacity > SIZE_MAX / sizeof v ? NULL : (json_value *)realloc(p->stack, capacity * sizeof v);
                if (!bigger) return ck__no_memory(p->err, p->file);
                p->stack = bigger;
                p->capacity = capacity;
            }
            p->stack[p->top++] = v;
            json__space(p);
            if (json__is(p, end)) {
                p->at++;
                break;
            }
            if (!json__is(p, ',')) return json__bad(p, object ? "expected ',' or '}'" : "expected ',' or ']'");
            p->at++;
        }
    size_t count = p->top - base;
    json_value *items = (json_value *)json__alloc(p->root, count * sizeof *items);
    if (!items) return ck__no_memory(p->err, p->file);
    p->top = base;
    out->type = object ? JSON_OBJECT : JSON_ARRAY;
    out->u.list.items = items;
    out->u.list.count = count;
    if (object && count) return json__sort(p, items, p->stack + base, count);
    if (count) memcpy(items, p->stack + base, count * sizeof *items);
    return MLA_OK;
}

static mla_result json__value(json__parser *p, int depth, json_value *out) {
    static const char *const words[] = {"null", "false", "true"};
    memset(out, 0, sizeof *out);
    json__space(p);
    if (p->at == p->n) return json__bad(p, "the text ends where a value is expected");
    if (++p->values > p->most) return json__bad(p, "more values than there can be in such a file");
    if (json__is(p, '{') || json__is(p, '[')) return json__container(p, depth, out);
    if (json__is(p, '"')) {
        out->type = JSON_STRING;
        return json__string(p, &out->u.string.text, &out->u.string.length);
    }
    for (int w = 0; w < 3; w++) {
        const size_t length = strlen(words[w]);
        if (p->n - p->at >= length && !memcmp(p->text + p->at, words[w], length)) {
            p->at += length;
            out->type = w ? JSON_BOOL : JSON_NULL;
            out->exact = w == 2;
            return MLA_OK;
        }
    }
    return json__number(p, out);
}

/* json_parse for a file: messages start with its name, and syntax errors are of its kind. */
static mla_result json__parse(const void *text, size_t n, size_t most, const char *file, mla_result code,
                              json_value **out, mla_error *err) {
    json__parser p;
    memset(&p, 0, sizeof p);
    *out = NULL;
    p.text = (const char *)text;
    p.file = file;
    p.n = n;
    p.most = most;
    p.code = code;
    p.err = err;
    const char *impostor = ck__impostor((const unsigned char *)text, n);
    if (impostor) return ck__fail(err, code, "%.60s: %s", file, impostor);
    p.root = (json__root *)calloc(1, sizeof *p.root);
    if (!p.root) return ck__no_memory(err, file);
    mla_result rc = json__value(&p, 0, &p.root->value);
    if (!rc) {
        json__space(&p);
        if (p.at < p.n) rc = json__bad(&p, "something follows the end of the value");
    }
    free(p.stack);
    if (rc) json_free(&p.root->value);
    else *out = &p.root->value;
    return rc;
}

mla_result json_parse(const char *text, size_t n, json_value **out, mla_error *err) {
    if (out) *out = NULL;
    if (!out || (!text && n)) return ck__fail(err, MLA_ERR_ARGUMENT, "json_parse: text or out is NULL");
    return json__parse(text ? text : "", n, JSON__VALUES, "JSON", MLA_ERR_ARGUMENT, out, err);
}

void json_free(json_value *root) {
    json__root *r = (json__root *)root;
    if (!r) return;
    while (r->chunks) {
        json__chunk *next = r->chunks->next;
        free(r->chunks);
        r->chunks = next;
    }
    free(r);
}

json_type json_typeof(const json_value *v) { return v ? v->type : JSON_NULL; }
int json_bool(const json_value *v) { return v && v->type == JSON_BOOL && v->exact; }
double json_number(const json_value *v) { return v && v->type == JSON_NUMBER ? v->u.number.real : 0; }
size_t json_place(const json_value *v) { return v ? v->place : 0; }
const char *json_key(const json_value *member) { return member ? member->key : NULL; }

int json_integer(const json_value *v, int64_t *out) {
    if (!v || v->type != JSON_NUMBER || !v->exact) return 0;
    *out = v->u.number.integer;
    return 1;
}

const char *json_string(const json_value *v, size_t *length) {
    const int is = v && v->type == JSON_STRING;
    if (length) *length = is ? v->u.string.length : 0;
    return is ? v->u.string.text : NULL;
}

size_t json_count(const json_value *v) {
    return v && (v->type == JSON_ARRAY || v->type == JSON_OBJECT) ? v->u.list.count : 0;
}

const json_value *json_at(const json_value *v, size_t i) { return i < json_count(v) ? v->u.list.items + i : NULL; }

const json_value *json_get(const json_value *object, const char *key) {
    json_value wanted;
    if (!object || object->type != JSON_OBJECT || !object->u.list.count) return NULL;
    wanted.key = key;
    return (const json_value *)bsearch(&wanted, object->u.list.items, object->u.list.count, sizeof wanted,
                                       json__by_key);
}

size_t json_quote(char *out, const char *text, size_t n) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt", hex[] = "0123456789abcdef";
    char *at = out;
    *at++ = '"';
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text[i];
        const char *escape = c ? strchr(from, c) : NULL;
        if (escape) *at++ = '\\', *at++ = to[escape - from];
        else if (c < 0x20 || c == 0x7f) {
            memcpy(at, "\\u00", 4);
            at[4] = hex[c >> 4], at[5] = hex[c & 15], at += 6;
        } else *at++ = (char)c;
    }
    *at++ = '"';
    return (size_t)(at - out);
}

/* A string that can be used as a C string, or NULL. */
static const char *json__text(const json_value *v) {
    size_t length;
    const char *s = json_string(v, &length);
    return s && strlen(s) == length ? s : NULL;
}

/* ---- >>safetensors-reader ---------------------------------------------------------------------------------------- */
/* u64 length of the header, the header in JSON, the data. The tensors' bytes must fill the data without gap or
   overlap. */

typedef struct st__dtype {
    const char *name;
    size_t size;
    int dtype; /* mla_dtype of a weight, or -1 */
} st__dtype;

static const st__dtype st__dtypes[] = {
    {"F32", 4, MLA_F32}, {"F16", 2, MLA_F16}, {"BF16", 2, MLA_BF16}, {"F8_E4M3", 1, MLA_E4M3},
    {"F8_E8M0", 1, -1},  {"F8_E5M2", 1, -1},  {"BOOL", 1, -1},       {"U8", 1, -1},
    {"I8", 1, -1},       {"U16", 2, -1},      {"I16", 2, -1},        {"U32", 4, -1},
    {"I32", 4, -1},      {"U64", 8, -1},      {"I64", 8, -1},        {"F64", 8, -1}};

static const uint64_t st__max_header = 100000000; /* as the reference implementation */
static const int64_t st__max_dim = (int64_t)1 << 53;

struct st_file {
    char name[64];      /* for messages */
    ck__file file;      /* if opened by path */
    json_value *header; /* owns the names */
    st_tensor *tensors;
    size_t count;
};

static const st__dtype *st__dtype_named(const char *name) {
    for (size_t i = 0; i < sizeof st__dtypes / sizeof st__dtypes[0]; i++)
        if (name && !strcmp(name, st__dtypes[i].name)) return &st__dtypes[i];
    return NULL;
}

/* One entry {"dtype": .., "shape": [..], "data_offsets": [begin, end]} of a file with so many bytes of data. */
static mla_result st__read_tensor(const st_file *f, const json_value *entry, const unsigned char *data, size_t size,
                                  st_tensor *t, mla_error *err) {
    const json_value *shape = json_get(entry, "shape"), *offsets = json_get(entry, "data_offsets");
    const char *dtype_name = json__text(json_get(entry, "dtype"));
    const st__dtype *dtype = st__dtype_named(dtype_name);
    int64_t begin = 0, end = 0;
    char what[100];
    t->name = json_key(entry);
    t->n_dims = (int)(json_count(shape) < 9 ? json_count(shape) : 9);
    t->bytes = dtype ? dtype->size : 0;
    what[0] = 0;
    if (json_count(entry) != 3 || !dtype_name || json_typeof(shape) != JSON_ARRAY || json_typeof(offsets) != JSON_ARRAY)
        snprintf(what, sizeof what, "expected an object of dtype, shape and data_offsets");
    else if (!dtype) snprintf(what, sizeof what, "unknown dtype \"%.20s\"", dtype_name);
    else if (t->n_dims > 8) snprintf(what, sizeof what, "more than 8 dimensions");
    for (int i = 0; i < t->n_dims && !what[0]; i++) {
        int64_t d = -1;
        if (!json_integer(json_at(shape, (size_t)i), &d) || d < 0 || d > st__max_dim)
            snprintf(what, sizeof what, "shape[%d] is not an integer from 0 to 2^53", i);
        else if (d > 0 && t->bytes > SIZE_MAX / 2 / (uint64_t)d)
            snprintf(what, sizeof what, "the size of its shape overflows");
        else t->bytes *= (size_t)d;
        t->dims[i] = d;
    }
    if (what[0])
        ;
    else if (json_count(offsets) != 2 || !json_integer(json_at(offsets, 0), &begin) ||
             !json_integer(json_at(offsets, 1), &end))
        snprintf(what, sizeof what, "data_offsets are not two integers");
    else if (begin < 0 || begin > end || (uint64_t)end > size)
        snprintf(what, sizeof what, "data_offsets [%lld, %lld] are not in order within %zu bytes", (long long)begin,
                 (long long)end, size);
    else if ((uint64_t)(end - begin) != t->bytes)
        snprintf(what, sizeof what, "data_offsets span %lld bytes, dtype and shape make %zu", (long long)(end - begin),
                 t->bytes);
    if (what[0]) return ck__fail(err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\": %s", f->name, t->name, what);
    t->dtype = dtype->name;
    t->data = data + begin;
    return MLA_OK;
}

static int st__by_address(const void *a, const void *b) {
    const st_tensor *x = (const st_tensor *)a, *y = (const st_tensor *)b;
    const char *p = (const char *)x->data, *q = (const char *)y->data;
    return p != q ? (p < q ? -1 : 1) : x->bytes != y->bytes ? (x->bytes < y->bytes ? -1 : 1) : 0;
}

static int st__by_name(const void *a, const void *b) {
    return strcmp(((const st_tensor *)a)->name, ((const st_tensor *)b)->name);
}

static mla_result st__read_header(st_file *f, const unsigned char *bytes, size_t size, mla_error *err) {
    uint64_t length = 0;
    const char *impostor = ck__impostor(bytes, size);
    if (impostor) return ck__fail(err, MLA_ERR_WEIGHTS, "%s: %s", f->name, impostor);
    if (size < 8)
        return ck__fail(err, MLA_ERR_WEIGHTS, "%s: %zu bytes, too short for a safetensors file", f->name, size);
    for (int i = 0; i < 8; i++) length |= (uint64_t)bytes[i] << (8 * i);
    if (length > st__max_header)
        return ck__fail(err, MLA_ERR_WEIGHTS, "%s: header length %llu is more than the 100000000 allowed", f->name,
                        (unsigned long long)length);
    if (length > size - 8)
        return ck__fail(err, MLA_ERR_WEIGHTS, "%s: header length %llu, but the file has only %zu bytes after it",
                        f->name, (unsigned long long)length, size - 8);
    if (length == 0 || bytes[8] != '{')
        return ck__fail(err, MLA_ERR_WEIGHTS, "%s: the header does not start with '{'", f->name);
    mla_result rc = json__parse(bytes + 8, (size_t)length, JSON__VALUES, f->name, MLA_ERR_WEIGHTS, &f->header, err);
    if (rc) return rc;

    const json_value *metadata = json_get(f->header, "__metadata__");
    for (size_t i = 0; i < json_count(metadata); i++)
        if (!json__text(json_at(metadata, i)))
            return ck__fail(err, MLA_ERR_WEIGHTS, "%s: __metadata__: \"%.99s\" is not a string", f->name,
                            json_typeof(metadata) == JSON_OBJECT ? json_key(json_at(metadata, i)) : "");
    if (metadata && json_typeof(metadata) != JSON_OBJECT)
        return ck__fail(err, MLA_ERR_WEIGHTS, "%s: __metadata__ is not an object of strings", f->name);

    f->tensors = (st_tensor *)calloc(json_count(f->header) + 1, sizeof *f->tensors);
    if (!f->tensors) return ck__no_memory(err, f->name);
    bytes += 8 + length;
    size -= 8 + (size_t)length;
    for (size_t i = 0; i < json_count(f->header); i++)
        if (json_at(f->header, i) != metadata) {
            rc = st__read_tensor(f, json_at(f->header, i), bytes, size, &f->tensors[f->count++], err);
            if (rc) return rc;
        }

    qsort(f->tensors, f->count, sizeof *f->tensors, st__by_address);
    const unsigned char *at = bytes;
    for (size_t i = 0; i < f->count; i++) {
        const st_tensor *t = &f->tensors[i];
        const unsigned char *begin = (const unsigned char *)t->data;
        if (begin != at)
            return ck__fail(err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\" begins at byte %zu of the data, %s at %zu",
                            f->name, t->name, (size_t)(begin - bytes),
                            begin < at ? "overlapping the one that ends" : "behind a hole", (size_t)(at - bytes));
        at += t->bytes;
    }
    if ((size_t)(at - bytes) != size)
        return ck__fail(err, MLA_ERR_WEIGHTS, "%s: %zu trailing bytes are of no tensor", f->name,
                        size - (size_t)(at - bytes));
    qsort(f->tensors, f->count, sizeof *f->tensors, st__by_name);
    return MLA_OK;
}

mla_result st_parse(st_file **out, const void *data, size_t size, const char *label, mla_error *err) {
    if (out) *out = NULL;
    if (!out || (!data && size)) return ck__fail(err, MLA_ERR_ARGUMENT, "st_parse: out or data is NULL");
    st_file *f = (st_file *)calloc(1, sizeof *f);
    if (!f) return ck__no_memory(err, label ? label : "buffer");
    snprintf(f->name, sizeof f->name, "%.60s", label ? label : "buffer");
    mla_result rc = st__read_header(f, (const unsigned char *)data, size, err);
    if (rc) st_close(f);
    else *out = f;
    return rc;
}

static mla_result st__open(st_file **out, const char *path, int *missing, mla_error *err) {
    ck__file file;
    mla_result rc = ck__file_open(&file, path, missing, err);
    *out = NULL;
    if (rc) return rc;
    rc = st_parse(out, file.data, file.size, ck__base_name(path), err);
    if (rc) ck__file_close(&file);
    else (*out)->file = file;
    return rc;
}

mla_result st_open(st_file **out, const char *path, mla_error *err) {
    if (out) *out = NULL;
    if (!out || !path) return ck__fail(err, MLA_ERR_ARGUMENT, "st_open: out or path is NULL");
    return st__open(out, path, NULL, err);
}

void st_close(st_file *f) {
    if (!f) return;
    ck__file_close(&f->file);
    json_free(f->header);
    free(f->tensors);
    free(f);
}

size_t st_count(const st_file *f) { return f ? f->count : 0; }
const st_tensor *st_at(const st_file *f, size_t i) { return i < st_count(f) ? &f->tensors[i] : NULL; }

const char *st_metadata(const st_file *f, const char *key) {
    return f ? json__text(json_get(json_get(f->header, "__metadata__"), key)) : NULL;
}

const st_tensor *st_find(const st_file *f, const char *name) {
    st_tensor wanted;
    if (!st_count(f)) return NULL;
    wanted.name = name;
    return (const st_tensor *)bsearch(&wanted, f->tensors, f->count, sizeof wanted, st__by_name);
}

/* ---- >>families -------------------------------------------------------------------------------------------------- */
/* All that depends on model_type. The first of a list of names is the default where config.json is silent. */

typedef struct ck__choice {
    const char *name; /* NULL ends a list */
    int value;
} ck__choice;

static const ck__choice ck__softmax[] = {{"softmax", MLA_SCORING_SOFTMAX}, {NULL, 0}};
static const ck__choice ck__either[] = {{"softmax", MLA_SCORING_SOFTMAX}, {"sigmoid", MLA_SCORING_SIGMOID}, {NULL, 0}};
static const ck__choice ck__sigmoid[] = {{"sigmoid", MLA_SCORING_SIGMOID}, {NULL, 0}};
static const ck__choice ck__topk_v2[] = {{"greedy", MLA_TOPK_GREEDY},
                                         {"group_limited_greedy", MLA_TOPK_GROUP_LIMITED_GREEDY},
                                         {"noaux_tc", MLA_TOPK_NOAUX_TC}, /* DeepSeek-VL2 */
                                         {NULL, 0}};
static const ck__choice ck__topk_v3[] = {{"noaux_tc", MLA_TOPK_NOAUX_TC}, {NULL, 0}};
static const ck__choice ck__silu[] = {{"silu", 0}, {NULL, 0}};
static const ck__choice ck__rope_types[] = {{"default", MLA_ROPE_DEFAULT},
                                            {"linear", MLA_ROPE_LINEAR},
                                            {"dynamic", MLA_ROPE_DYNAMIC},
                                            {"yarn", MLA_ROPE_YARN},
                                            {"longrope", MLA_ROPE_LONGROPE},
                                            {"deepseek_yarn", MLA_ROPE_YARN},
                                            {NULL, 0}};
static const ck__choice ck__topk_zero[] = {{"noaux_tc", MLA_TOPK_NOAUX_ZERO}, {NULL, 0}};
static const ck__choice ck__topk_greedy[] = {{"greedy", MLA_TOPK_GREEDY}, {NULL, 0}};
static const ck__choice ck__zero_experts[] = {{"identity", 1}, {NULL, 0}};

/* What a boolean key does: it may not be set; default false; default true. */
enum { CK__NEVER, CK__IF_SET, CK__UNLESS_UNSET };

enum {                       /* what some families have and others have not */
       CK__ROUTER_BIAS = 1,  /* e_score_correction_bias must be there */
       CK__FFN_OUT_NORM = 2, /* post_mlp_layernorm on MoE layers */
       CK__ROPE_HALF = 4,    /* if rope_interleave is CK__NEVER: HALF, not PAIR */
       CK__TEMPERATURE = 8,  /* rope_parameters.llama_4_scaling_beta */
       CK__MUP_SCALES = 16,  /* scale_emb, scale_depth, dim_model_base */
       CK__LORA_SCALES = 32, /* mla_scale_q_lora, mla_scale_kv_lora */
       CK__SHORTCUT =
           64, /* a layer of the file is two of ours: the first has experts beside its mlp, the second an mlp alone */
       CK__OLD_DEFAULTS =
           128,              /* rope_theta may be missing (10000), and v_head_dim (hidden_size / num_attention_heads) */
       CK__INDEXER = 256,    /* sparse attention: index_topk and self_attn.indexer */
       CK__INDEX_HALF = 512, /* what the indexer's rope is if indexer_rope_interleave does not say: HALF, not PAIR */
       CK__INDEX_SHARED = 1024,   /* some layers have none: indexer_types, or a rule */
       CK__BIAS_IF_THERE = 2048,  /* e_score_correction_bias may be there */
       CK__BIAS_BY_METHOD = 4096, /* it must for noaux_tc, and only then */
       CK__SANDWICH = 8192,       /* with the key sandwich_norm: norms behind attention and FFN of every layer */
       CK__LATENT_EPS = 16384,    /* the latents' norms take rms_norm_eps, too */
       CK__GATED_NORM = 32768,    /* input_layernorm, and post_attention_layernorm of MoE layers, of gated_norm_rank */
       CK__QUERY_GATE = 65536,    /* q_b_proj takes the latent twice, and gives a gate behind each head's query */
       CK__GROUPS_IF_THERE = 131072, /* n_group and topk_group may be missing or null: there are none */
       CK__HY = 262144,    /* Hy4: streams, sinks, a gate, clamped experts, names; indexers in every fourth layer */
       CK__NGRAM = 524288, /* n-gram embeddings: emb_neighbor_num, emb_split_num, ngram_vocab_size_ratio */
       CK__LINEAR_ATTN = 1048576, /* linear_attn_config says which layers are KDA; nothing rotates */
       CK__BAILING = 2097152      /* layer_group_size does; names of its own, gates of heads, a bound of decay */
};

typedef struct ck__rename { /* a key has another name */
    const char *key, *name;
    int always; /* 0: it may have either */
} ck__rename;

static const ck__rename ck__longcat_keys[] = {{"num_hidden_layers", "num_layers", 1},
                                              {"intermediate_size", "ffn_hidden_size", 1},
                                              {"moe_intermediate_size", "expert_ffn_hidden_size", 1},
                                              {"num_experts_per_tok", "moe_topk", 1},
                                              {NULL, NULL, 0}};
static const ck__rename ck__pangu_keys[] = {{"q_lora_rank", "attention_q_lora_dim", 0},
                                            {"kv_lora_rank", "attention_kv_lora_dim", 0},
                                            {"qk_nope_head_dim", "attention_qk_dim", 0},
                                            {"qk_rope_head_dim", "attention_qk_rope_dim", 0},
                                            {"v_head_dim", "attention_v_dim", 0},
                                            {"n_routed_experts", "num_routed_experts", 0},
                                            {"n_shared_experts", "num_shared_experts", 0},
                                            {"first_k_dense_replace", "num_dense_layers", 0},
                                            {"num_nextn_predict_layers", "num_mtp_layers", 0},
                                            {NULL, NULL, 0}};
static const ck__rename ck__sarvam_keys[] = {{"n_routed_experts", "num_experts", 0},
                                             {"n_shared_experts", "num_shared_experts", 0},
                                             {"scoring_func", "score_function", 0},
                                             {NULL, NULL, 0}};

static const ck__rename ck__bailing_keys[] = {{"n_routed_experts", "num_experts", 1},
                                              {"n_shared_experts", "num_shared_experts", 1},
                                              {"scoring_func", "score_function", 0},
                                              {NULL, NULL, 0}};
static const ck__rename ck__kimi_linear_keys[] = {{"n_routed_experts", "num_experts", 1},
                                                  {"num_experts_per_tok", "num_experts_per_token", 1},
                                                  {"n_shared_experts", "num_shared_experts", 1},
                                                  {"n_group", "num_expert_group", 1},
                                                  {"norm_topk_prob", "moe_renormalize", 1},
                                                  {"scoring_func", "moe_router_activation_func", 1},
                                                  {"max_position_embeddings", "model_max_length", 0},
                                                  {NULL, NULL, 0}};

/* What some families call parts of their layers. */
typedef struct ck__names {
    const char *ffn, *dense;      /* what names of experts and of a dense FFN begin with */
    const char *gate, *up, *down; /* of an expert */
} ck__names;
static const ck__names ck__usual_names = {"mlp", "mlp", "gate_proj", "up_proj", "down_proj"};
static const ck__names ck__hy_names = {"mlp", "mlp", "linear_gate", "up_proj", "down_proj"};
/* transformers has dense layers under block_sparse_moe, too */
static const ck__names ck__kimi_linear_names = {"block_sparse_moe", "mlp", "w1", "w3", "w2"};

typedef struct ck__family {
    const char *model_type;
    const char *architecture;                     /* of a text_config that does not say its model_type */
    const ck__choice *scoring_func, *topk_method; /* NULL: no experts */
    int norm_topk_prob;                           /* CK__: are the chosen weights divided by their sum? */
    int rope_interleave;                          /* CK__: does that key choose between PAIR and HALF? */
    int tied;                                     /* CK__: tie_word_embeddings */
    const ck__rename *keys;                       /* NULL: the usual ones */
    unsigned has;
    const ck__names *names; /* NULL: the usual ones */
} ck__family;

static const ck__family ck__families[] = {
    /* transformers leaves norm_topk_prob of a deepseek_v2 alone. DeepSeek's own code, llama.cpp and vLLM obey it, and
       with them whoever trained such a model. */
    {"deepseek_v2", "DeepseekV2ForCausalLM", ck__either, ck__topk_v2, CK__IF_SET, CK__NEVER, CK__IF_SET, NULL,
     CK__BIAS_BY_METHOD, NULL},
    {"deepseek_v3", "DeepseekV3ForCausalLM", ck__sigmoid, ck__topk_v3, CK__UNLESS_UNSET, CK__UNLESS_UNSET, CK__IF_SET,
     NULL, CK__ROUTER_BIAS, NULL},
    {"kimi_k2", "KimiK2ForCausalLM", ck__sigmoid, ck__topk_v3, CK__UNLESS_UNSET, CK__UNLESS_UNSET, CK__IF_SET, NULL,
     CK__ROUTER_BIAS, NULL},
    {"glm4_moe_lite", "Glm4MoeLiteForCausalLM", ck__sigmoid, ck__topk_v3, CK__UNLESS_UNSET, CK__UNLESS_UNSET,
     CK__IF_SET, NULL, CK__ROUTER_BIAS, NULL},
    {"longcat_flash", "LongcatFlashForCausalLM", ck__softmax, ck__topk_greedy, CK__NEVER, CK__NEVER, CK__IF_SET,
     ck__longcat_keys, CK__ROUTER_BIAS | CK__LORA_SCALES | CK__SHORTCUT, NULL},
    {"minicpm3", "MiniCPM3ForCausalLM", NULL, NULL, CK__NEVER, CK__NEVER, CK__UNLESS_UNSET, NULL,
     CK__ROPE_HALF | CK__MUP_SCALES | CK__OLD_DEFAULTS, NULL},
    {"mistral4", "Mistral4ForCausalLM", ck__softmax, ck__topk_v3, CK__UNLESS_UNSET, CK__UNLESS_UNSET, CK__IF_SET, NULL,
     CK__TEMPERATURE, NULL},
    {"youtu", "YoutuForCausalLM", NULL, NULL, CK__NEVER, CK__UNLESS_UNSET, CK__UNLESS_UNSET, NULL, 0, NULL},
    {"axk1", "AXK1ForCausalLM", ck__sigmoid, ck__topk_v3, CK__UNLESS_UNSET, CK__UNLESS_UNSET, CK__IF_SET, NULL,
     CK__ROUTER_BIAS | CK__FFN_OUT_NORM, NULL},
    {"deepseek_v32", "DeepseekV32ForCausalLM", ck__sigmoid, ck__topk_v3, CK__UNLESS_UNSET, CK__NEVER, CK__IF_SET, NULL,
     CK__ROUTER_BIAS | CK__INDEXER | CK__INDEX_HALF, NULL},
    {"glm_moe_dsa", "GlmMoeDsaForCausalLM", ck__sigmoid, ck__topk_v3, CK__UNLESS_UNSET, CK__NEVER, CK__IF_SET, NULL,
     CK__ROUTER_BIAS | CK__INDEXER | CK__INDEX_SHARED, NULL},
    {"axk2", "AXK2ForCausalLM", ck__sigmoid, ck__topk_zero, CK__UNLESS_UNSET, CK__NEVER, CK__IF_SET, NULL,
     CK__ROUTER_BIAS | CK__INDEXER | CK__INDEX_HALF | CK__GATED_NORM | CK__QUERY_GATE | CK__GROUPS_IF_THERE, NULL},
    /* rope_interleave: transformers has it HALF; of the published files it is said that they are PAIR, for which the
       key is to be true */
    {"hy_v4", "HYV4ForCausalLM", ck__sigmoid, ck__topk_v3, CK__UNLESS_UNSET, CK__IF_SET, CK__IF_SET, NULL,
     CK__ROUTER_BIAS | CK__INDEXER | CK__INDEX_HALF | CK__INDEX_SHARED | CK__HY, &ck__hy_names},
    {"longcat_flash_ngram", "LongcatFlashNgramForCausalLM", ck__softmax, ck__topk_greedy, CK__NEVER, CK__NEVER,
     CK__IF_SET, ck__longcat_keys, CK__ROUTER_BIAS | CK__LORA_SCALES | CK__SHORTCUT | CK__NGRAM, NULL},
    {"sarvam_mla", "SarvamMLAForCausalLM", ck__sigmoid, ck__topk_v3, CK__UNLESS_UNSET, CK__UNLESS_UNSET, CK__IF_SET,
     ck__sarvam_keys, CK__BIAS_IF_THERE, NULL},
    {"pangu_ultra_moe", "PanguUltraMoEForCausalLM", ck__sigmoid, ck__topk_greedy, CK__UNLESS_UNSET, CK__NEVER,
     CK__IF_SET, ck__pangu_keys, CK__BIAS_IF_THERE | CK__SANDWICH | CK__LATENT_EPS, NULL},
    {"kimi_linear", "KimiLinearForCausalLM", ck__sigmoid, ck__topk_v3, CK__UNLESS_UNSET, CK__NEVER, CK__IF_SET,
     ck__kimi_linear_keys, CK__ROUTER_BIAS | CK__LINEAR_ATTN, &ck__kimi_linear_names},
    {"bailing_hybrid", "BailingMoeV3ForCausalLM", ck__sigmoid, ck__topk_v3, CK__UNLESS_UNSET, CK__NEVER, CK__IF_SET,
     ck__bailing_keys, CK__ROUTER_BIAS | CK__BAILING, NULL},
};
enum { CK__N_FAMILIES = sizeof ck__families / sizeof ck__families[0] };

/* Known by name, and what they need that is not here. */
static const struct ck__refused {
    const char *model_type, *needs;
} ck__refused[] = {
    {"deepseek_v4", "another attention, which does not cache the latents of MLA"},
    {"glm5_next",
     "names and sizes of what is around its recurrent layers (Kimi Delta Attention), which are not known here"},
    {"kimi_k3",
     "names and sizes of what is around its recurrent layers (Kimi Delta Attention), which are not known here"},
    {"dots3_note", "a sliding window and a norm on the rope key beside MLA and its gates"},
    {"motif3", "what it has beside MLA, of which no description was to be had"},
};

/* A language model within another: in a part of config.json with one of these keys, its model_type there or by what is
   around it. */
static const char *const ck__parts[] = {"text_config", "language_config"};
static const struct ck__outer {
    const char *model_type, *inner;
} ck__outers[] = {{"kimi_vl", "deepseek_v3"}, {"kimi_k25", "kimi_k2"}, {"deepseek_vl_v2", "deepseek_v2"}};

/* What the names of its tensors begin with instead of "model.", and before "lm_head.". */
static const char *const ck__bodies[] = {"model.", "language_model.model.", "model.language_model.", "language.model."};
static const char *const ck__heads[] = {"", "language_model.", "language.", "model."};

/* ---- >>config-reader --------------------------------------------------------------------------------------------- */
/* Readers keep the first error and do nothing after it, so that the keys can be read one per line and rc asked at the
 * end. */

typedef struct ck__asked { /* keys that have been asked for */
    const char *names[128];
    int n;
} ck__asked;

typedef struct ck__reader {
    const json_value *object;
    ck__asked *asked;          /* NULL: nobody wants to know */
    const ck__rename *renames; /* NULL: none */
    const char *file, *prefix; /* prefix: "rope_scaling." while reading in there */
    mla_result rc;
    mla_error *err;
} ck__reader;

static const int ck__required = INT_MIN; /* as the value of an absent key: there is none */

static ck__reader ck__read(const char *file, const json_value *object, mla_error *err) {
    ck__reader r;
    memset(&r, 0, sizeof r);
    r.object = object;
    r.file = file;
    r.prefix = "";
    r.err = err;
    if (json_typeof(object) != JSON_OBJECT) r.rc = ck__fail(err, MLA_ERR_CONFIG, "%s: expected an object", file);
    return r;
}

static ck__reader ck__inside(const ck__reader *r, const json_value *object, const char *prefix) {
    ck__reader sub = *r;
    sub.object = object;
    sub.prefix = prefix;
    sub.renames = NULL;
    return sub;
}

/* What the key is called here. */
static const char *ck__name(const ck__reader *r, const char *key) {
    for (const ck__rename *n = r->renames; n && n->key; n++)
        if (!strcmp(key, n->key)) return n->always || json_get(r->object, n->name) ? n->name : key;
    return key;
}

/* The value, or NULL if absent or null, which mean the same in all these files. */
static const json_value *ck__key(ck__reader *r, const char *key, int required) {
    const json_value *v = json_get(r->object, key);
    if (r->asked && r->asked->n < (int)(sizeof r->asked->names / sizeof *r->asked->names))
        r->asked->names[r->asked->n++] = key;
    if (r->rc) return NULL;
    if (json_typeof(v) != JSON_NULL) return v;
    if (required)
        r->rc = ck__fail(r->err, MLA_ERR_CONFIG, "%s: %s%s is %s", r->file, r->prefix, key, v ? "null" : "missing");
    return NULL;
}

static void ck__expected(ck__reader *r, const char *key, const json_value *v, const char *what) {
    char found[64];
    switch (json_typeof(v)) {
    case JSON_NULL: snprintf(found, sizeof found, "null"); break;
    case JSON_BOOL: snprintf(found, sizeof found, json_bool(v) ? "true" : "false"); break;
    case JSON_NUMBER: snprintf(found, sizeof found, "the number %.15g", json_number(v)); break;
    case JSON_STRING: snprintf(found, sizeof found, "the string \"%.40s\"", json_string(v, NULL)); break;
    case JSON_ARRAY: snprintf(found, sizeof found, "an array of %zu", json_count(v)); break;
    default: snprintf(found, sizeof found, "an object"); break;
    }
    if (!r->rc)
        r->rc =
            ck__fail(r->err, MLA_ERR_CONFIG, "%s: %s%s: found %s, expected %s", r->file, r->prefix, key, found, what);
}

static int ck__int(ck__reader *r, const char *key, int min, int max, int absent) {
    key = ck__name(r, key);
    const json_value *v = ck__key(r, key, absent == ck__required);
    char what[96];
    int64_t i = 0;
    if (!v) return absent == ck__required ? min : absent;
    snprintf(what, sizeof what, "an integer from %d to %d, without point or exponent", min, max);
    if (!json_integer(v, &i) || i < min || i > max) ck__expected(r, key, v, what);
    return r->rc ? min : (int)i;
}

/* min is above 0 or 0; the result is as good as a float. */
static float ck__float(ck__reader *r, const char *key, double min, double absent) {
    key = ck__name(r, key);
    const json_value *v = ck__key(r, key, absent < 0);
    const double x = json_number(v);
    if (!v) return (float)(absent < 0 ? min : absent);
    if (json_typeof(v) == JSON_NUMBER && x > FLT_MAX) ck__expected(r, key, v, "a number up to 3.4e38");
    else if (json_typeof(v) != JSON_NUMBER || x < min)
        ck__expected(r, key, v, min >= 1 ? "a number from 1 on" : min > 0 ? "a number above 0" : "a number from 0 on");
    return r->rc ? (float)min : (float)x;
}

static int ck__bool(ck__reader *r, const char *key, int absent) {
    key = ck__name(r, key);
    const json_value *v = ck__key(r, key, 0);
    if (v && json_typeof(v) != JSON_BOOL) ck__expected(r, key, v, "true or false");
    return v ? json_bool(v) : absent;
}

static int ck__pick(ck__reader *r, const char *key, const ck__choice *choices, int required) {
    key = ck__name(r, key);
    const json_value *v = ck__key(r, key, required);
    const char *name = json__text(v);
    char known[112];
    size_t n = 0;
    int all = 1;
    if (v && !name) ck__expected(r, key, v, "a name in quotes");
    if (!name || r->rc) return choices[0].value;
    known[0] = 0;
    for (int i = 0; choices[i].name; i++) {
        if (!strcmp(name, choices[i].name)) return choices[i].value;
        all = all && n + strlen(choices[i].name) + 2 < sizeof known; /* the first that fit */
        if (all) n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", choices[i].name);
    }
    r->rc = ck__fail(r->err, MLA_ERR_UNSUPPORTED, "%s: %s%s \"%.40s\" is not supported (%s%s %s)", r->file, r->prefix,
                     key, name, known, all ? "" : " and others", choices[1].name ? "are" : "is");
    return choices[0].value;
}

static int ck__flag(ck__reader *r, const char *key, int effect) {
    const int set = ck__bool(r, key, effect == CK__UNLESS_UNSET);
    if (set && effect == CK__NEVER) ck__expected(r, key, json_get(r->object, key), "false, for this model_type");
    return set;
}

/* What config.json may have and nobody here asks for, or only for some models. */
static const char *const ck__passed_over[] = {
    "architectures", "attention_bias", "attention_dropout", "auto_map", "aux_loss_alpha", "cls_token_id", "dtype",
    "embedding_initializer_range", "ep_size", "head_dim", "index_head_dim", "index_n_heads", "index_topk",
    "initializer_range", "layer_types", "learnable_sink_init", "linear_conv_kernel_dim", "linear_head_dim",
    "linear_num_heads", "mlp_layer_types", "model_type", "n_group", "num_hidden_layers", "num_key_value_heads",
    "num_nextn_predict_layers", "pad_token_id", "partial_rotary_factor", "pretraining_tp", "qk_head_dim",
    "rope_parameters", "rope_type", "sep_token_id", "seq_aux", "topk_group", "torch_dtype", "transformers_version",
    "type", "unk_token_id", "use_cache", "_name_or_path",
    /* of experts and of rope, where there are some */
    "first_k_dense_replace", "moe_layer_freq", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts",
    "scoring_func", "topk_method", "norm_topk_prob", "routed_scaling_factor", "factor", "attention_factor", "beta_fast",
    "beta_slow", "mscale", "mscale_all_dim", "truncate", "original_max_position_embeddings", "rope_theta",
    "llama_4_scaling_beta"};
enum { CK__N_PASSED_OVER = sizeof ck__passed_over / sizeof *ck__passed_over };

static char ck__lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c; }

/* Letters to change, insert or leave out between two names, of which case makes no difference but the first; 3 if more
   than 2. */
static int ck__distance(const char *a, const char *b) {
    enum { MOST = 48 };
    const size_t n = strlen(a), m = strlen(b);
    int row[MOST + 1];
    if (n > MOST || m > MOST || n > m + 2 || m > n + 2) return 3;
    for (size_t j = 0; j <= m; j++) row[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int before = row[0]++; /* what row[j - 1] was */
        for (size_t j = 1; j <= m; j++) {
            const int same = before + (ck__lower(a[i - 1]) != ck__lower(b[j - 1]));
            const int gap = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            before = row[j];
            row[j] = same < gap ? same : gap;
        }
    }
    return row[m] > 3 ? 3 : row[m] ? row[m] : strcmp(a, b) != 0;
}

/* *list, text after text, grows by one; without memory it stays. */
static void ck__list(char **list, const char *a, const char *between, const char *b, const char *after) {
    const size_t n = *list ? strlen(*list) : 0, room = n + strlen(b) + strlen(after) + 80;
    char *more = n < 4096 ? (char *)realloc(*list, room) : NULL;
    if (!more) return;
    snprintf(more + n, room - n, "%s%.60s%s%s%s", n ? ", " : "", a, between, b, after);
    for (char *c = more + n; *c; c++) /* a name out of a file */
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    *list = more;
}

/* The keys of an object that are not known, and what they might be meant for. */
static void ck__note_keys(checkpoint *c, const json_value *object, const ck__asked *asked) {
    for (size_t i = 0; json_typeof(object) == JSON_OBJECT && i < json_count(object); i++) {
        const char *key = json_key(json_at(object, i)), *like = NULL;
        int best = 3;
        for (int k = 0; k < CK__N_PASSED_OVER + asked->n && best; k++) {
            const char *known = k < CK__N_PASSED_OVER ? ck__passed_over[k] : asked->names[k - CK__N_PASSED_OVER];
            const int d = ck__distance(key, known);
            if (d < best) best = d, like = known;
        }
        if (!best) continue;
        if (like && strlen(key) > 4) ck__list(&c->misspelt, key, ", is it ", like, "?");
        else ck__list(&c->unread, key, "", "", "");
    }
}

/* Keys that would change the result, and are known only by the one value that is obeyed. */
static void ck__read_fixed(ck__reader *r) {
    static const struct fixed {
        const char *key;
        int value;
    } keys[] = {{"use_mla", 1}, {"mlp_bias", 0}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (ck__bool(r, keys[i].key, keys[i].value) != keys[i].value)
            ck__expected(r, keys[i].key, json_get(r->object, keys[i].key),
                         keys[i].value ? "true, for nothing else is here" : "false, for nothing else is here");
}

typedef enum ck__kind { /* of quantized matrices */
                        CK__FP8 = 1,
                        CK__INT8,
                        CK__INT4,
                        CK__INT4_ZEROS, /* with zero points */
                        CK__NVFP4,
                        CK__MXFP4
} ck__kind;
static const char *const ck__kind_names[] = {
    "", "F8_E4M3", "int8", "packed int4", "packed int4 with zero points", "packed nvfp4", "packed mxfp4"};

typedef struct ck__scheme { /* how config.json says that matrices are quantized */
    ck__kind kind;
    int rows, cols; /* of the block that has a scale; 0: all of them */
} ck__scheme;

/* What the tensors must look like, beyond mla_config. */
typedef struct ck__plan {
    const ck__family *family;
    int first_k_dense_replace, moe_layer_freq;
    int attention_bias, tied, sandwich;
    ck__scheme schemes[8]; /* a quantized matrix is so by one of these */
    int n_schemes, ue8m0;
    const char *scale_name;       /* of a quantized matrix, if none is there */
    int index_freq, index_offset; /* layer i has an indexer if max(i - offset + 1, 0) is a multiple of freq, unless the
                                     checkpoint has a list */
    const char *body, *head;      /* what names begin with instead of "model.", and before "lm_head." */
    int nested;                   /* config.json has this model as a part, and the files may have others beside it */
    int mtp;                      /* layers of multi-token prediction are wanted */
    int pairs;                    /* KDA's f and g are two matrices each, in a family that may have one */
    size_t ngram_tables;          /* 0: none; the first has so many times vocab_size rows, and one */
    int ngram_ratio;
} ck__plan;

/* Layer i of ours in the numbering of the files. */
static int ck__in_file(const ck__plan *plan, int i) { return plan->family->has & CK__SHORTCUT ? i / 2 : i; }

static int ck__is_moe(const mla_config *m, const ck__plan *plan, int layer) {
    if (plan->family->has & CK__SHORTCUT) return m->n_routed_experts > 0 && layer % 2 == 0;
    return m->n_routed_experts > 0 && layer >= plan->first_k_dense_replace && layer % plan->moe_layer_freq == 0;
}

/* Of a dense FFN and a shared expert. */
static const ck__names *ck__plain_names(const ck__plan *plan) {
    return plan->family->has & CK__HY ? &ck__hy_names : &ck__usual_names;
}
static const char *ck__embed_name(const ck__plan *plan) {
    return plan->family->has & CK__NGRAM     ? "model.ngram_embeddings.word_embeddings.weight"
           : plan->family->has & CK__BAILING ? "model.word_embeddings.weight"
                                             : "model.embed_tokens.weight";
}
static const ck__names *ck__names_of(const ck__plan *plan) {
    return plan->family->names ? plan->family->names : &ck__usual_names;
}

static int ck__has_indexer(const checkpoint *c, const ck__plan *plan, int layer) {
    const int64_t i = (int64_t)layer - plan->index_offset + 1;
    if (!(plan->family->has & CK__INDEXER)) return 0;
    if (layer >= c->config.num_hidden_layers)
        return 1; /* for multi-token prediction: no layer before it is run in the same call */
    return c->indexers ? c->indexers[layer] : (i > 0 ? i : 0) % plan->index_freq == 0;
}

/* May config.json leave out what is 10000, 1e-6 or 1 where its class has that by default? The parts of DeepSeek-VL2
   do. */
static int ck__leaves_out(const ck__plan *plan, unsigned has) {
    if (plan->nested) has |= CK__BIAS_BY_METHOD;
    return (plan->family->has & has) != 0;
}

static void ck__read_longrope(checkpoint *c, ck__reader *r) {
    static const char *const keys[] = {"short_factor", "long_factor"};
    const size_t n = (size_t)c->config.qk_rope_head_dim / 2;
    for (int k = 0; k < 2; k++) {
        const json_value *list = ck__key(r, keys[k], 1);
        if (!r->rc && (json_typeof(list) != JSON_ARRAY || json_count(list) != n))
            ck__expected(r, keys[k], list, "an array of qk_rope_head_dim / 2 numbers");
        if (!r->rc && !c->rope_factors) { /* n is now known to be no more than what the file holds */
            c->rope_factors = (float *)calloc(2 * n + 1, sizeof *c->rope_factors);
            if (!c->rope_factors) r->rc = ck__no_memory(r->err, r->file);
        }
        for (size_t i = 0; i < n && !r->rc; i++) {
            const double x = json_number(json_at(list, i));
            if (x < FLT_MIN || x > FLT_MAX) ck__expected(r, keys[k], json_at(list, i), "numbers above 0 only");
            else c->rope_factors[(size_t)k * n + i] = (float)x;
        }
    }
    if (r->rc) return;
    c->config.rope.short_factor = c->rope_factors;
    c->config.rope.long_factor = c->rope_factors + n;
}

/* Published checkpoints: rope_theta and rope_scaling {type | rope_type, ...}. transformers 5: rope_parameters
   {rope_type, rope_theta, ...}. The first, if there, replaces the second. */
static void ck__read_rope(checkpoint *c, const ck__plan *plan, ck__reader *r) {
    mla_rope *rope = &c->config.rope;
    const json_value *old = ck__key(r, "rope_scaling", 0), *dict = old ? old : ck__key(r, "rope_parameters", 0);
    ck__reader sub = ck__inside(r, dict, old ? "rope_scaling." : "rope_parameters.");
    const char *type = json_get(dict, "rope_type") ? "rope_type" : "type";
    float outer, inner;
    const int fixed = plan->family->rope_interleave == CK__NEVER,
              always_half = (plan->family->has & CK__ROPE_HALF) != 0;
    const int half = fixed ? !ck__bool(r, "rope_interleave", !always_half)
                           : !ck__flag(r, "rope_interleave", plan->family->rope_interleave);
    if (fixed && half != always_half)
        ck__expected(r, "rope_interleave", json_get(r->object, "rope_interleave"),
                     always_half ? "false, for this model_type" : "true, for this model_type");
    rope->layout = half ? MLA_ROPE_HALF : MLA_ROPE_PAIR;
    if (dict && json_typeof(dict) != JSON_OBJECT)
        ck__expected(r, old ? "rope_scaling" : "rope_parameters", dict, "an object");
    outer = ck__float(r, "rope_theta", FLT_MIN, 0);
    sub.rc = r->rc;
    inner = ck__float(&sub, "rope_theta", FLT_MIN, 0);
    rope->theta = outer > 0 ? outer : inner > 0 ? inner : ck__leaves_out(plan, CK__OLD_DEFAULTS) ? 10000 : 0;
    if (!sub.rc && !(rope->theta > 0)) sub.rc = ck__fail(r->err, MLA_ERR_CONFIG, "%s: rope_theta is missing", r->file);
    if (!sub.rc && outer > 0 && inner > 0 && (outer < inner || outer > inner))
        sub.rc = ck__fail(r->err, MLA_ERR_CONFIG, "%s: rope_theta is %g, but %srope_theta is %g", r->file,
                          (double)outer, sub.prefix, (double)inner);

    rope->scaling = (mla_rope_scaling)ck__pick(&sub, type, ck__rope_types, old != NULL);
    if (ck__pick(&sub, "type", ck__rope_types, 0) != (int)rope->scaling && ck__key(&sub, "type", 0))
        ck__expected(&sub, "type", json_get(dict, "type"), "the same as rope_type");
    rope->max_position_embeddings = c->max_position_embeddings;
    rope->original_max_position_embeddings =
        ck__int(r, "original_max_position_embeddings", 1, INT_MAX,
                ck__int(&sub, "original_max_position_embeddings", 1, INT_MAX, c->max_position_embeddings));
    if (rope->scaling != MLA_ROPE_DEFAULT)
        rope->factor =
            ck__float(&sub, "factor", 1, rope->scaling == MLA_ROPE_LONGROPE ? 0 : -1); /* longrope: optional */
    if (rope->scaling == MLA_ROPE_YARN || rope->scaling == MLA_ROPE_LONGROPE)
        rope->attention_factor = ck__float(&sub, "attention_factor", FLT_MIN, 0);
    if (rope->scaling == MLA_ROPE_YARN) {
        rope->beta_fast = ck__float(&sub, "beta_fast", FLT_MIN, 32);
        rope->beta_slow = ck__float(&sub, "beta_slow", FLT_MIN, 1);
        rope->mscale = ck__float(&sub, "mscale", 0, 0);
        rope->mscale_all_dim = ck__float(&sub, "mscale_all_dim", 0, 0);
        rope->no_truncate = !ck__bool(&sub, "truncate", 1);
    }
    if (rope->scaling == MLA_ROPE_LONGROPE) ck__read_longrope(c, &sub);
    if (plan->family->has & CK__TEMPERATURE) c->config.temperature_beta = ck__float(&sub, "llama_4_scaling_beta", 0, 0);
    if (c->config.temperature_beta > 0) c->config.temperature_period = rope->original_max_position_embeddings;
    if (!r->rc) r->rc = sub.rc;
}

/* Which layers have an indexer: those that the list indexer_types calls "full" (others: "shared"), or by
   index_topk_pattern, F and S, or else by index_topk_freq and index_skip_topk_offset, as transformers 5 has it. The
   first one does. */
static void ck__read_indexer_types(checkpoint *c, ck__plan *plan, ck__reader *r) {
    const json_value *list = ck__key(r, "indexer_types", 0), *letters = ck__key(r, "index_topk_pattern", 0);
    const char *key = list ? "indexer_types" : "index_topk_pattern";
    const int L = c->config.num_hidden_layers;
    size_t length = 0;
    const char *pattern = list ? NULL : json_string(letters, &length);
    if (list || !pattern) length = json_count(list ? list : letters);
    plan->index_freq = ck__int(r, "index_topk_freq", 0, INT_MAX, plan->family->has & CK__HY ? 4 : 1);
    plan->index_freq = plan->index_freq > 0 ? plan->index_freq : 1;
    plan->index_offset = ck__int(r, "index_skip_topk_offset", INT_MIN + 1, INT_MAX, 2);
    if (r->rc) return;
    if (list || letters) {
        const json_value *v = list ? list : letters;
        if (length != (size_t)L ||
            (!pattern && json_typeof(v) != JSON_ARRAY)) { /* which bounds L by what the file holds */
            ck__expected(r, key, v, "one name for each of num_hidden_layers");
            return;
        }
        c->indexers = (char *)calloc(length + 1, 1);
        if (!c->indexers) r->rc = ck__no_memory(r->err, r->file);
        for (size_t i = 0; i < length && !r->rc; i++) {
            const char *name = pattern ? NULL : json__text(json_at(v, i));
            const int full = pattern ? pattern[i] == 'F' : name && !strcmp(name, "full");
            const int shared = pattern ? pattern[i] == 'S' : name && !strcmp(name, "shared");
            if (!full && !shared)
                ck__expected(r, key, pattern ? v : json_at(v, i),
                             pattern ? "the letters F and S" : "\"full\" or \"shared\"");
            else c->indexers[i] = (char)full;
        }
    }
    if (!r->rc && !ck__has_indexer(c, plan, 0))
        r->rc = ck__fail(r->err, MLA_ERR_CONFIG,
                         "%s: %s%s: the first layer is \"shared\", but none before it has an indexer", r->file,
                         r->prefix, c->indexers ? key : "index_skip_topk_offset");
}

/* The layers that a list of linear_attn_config names, counted from 1, are of a kind. */
static void ck__read_kind(checkpoint *c, ck__reader *r, const char *key, char kind) {
    const json_value *list = ck__key(r, key, 1);
    if (!r->rc && json_typeof(list) != JSON_ARRAY) ck__expected(r, key, list, "a list of layers");
    for (size_t i = 0; i < json_count(list) && !r->rc; i++) {
        int64_t layer = 0;
        if (!json_integer(json_at(list, i), &layer) || layer < 1 || layer > c->config.num_hidden_layers ||
            c->recurrent[layer - 1])
            ck__expected(r, key, json_at(list, i), "each layer from 1 to num_hidden_layers in one list, once");
        else c->recurrent[layer - 1] = kind;
    }
}

/* Which layers are KDA, and of what sizes. */
static void ck__read_linear(checkpoint *c, const ck__plan *plan, ck__reader *r) {
    mla_config *m = &c->config;
    if (!(plan->family->has & CK__LINEAR_ATTN) || r->rc) return;
    const json_value *dict = ck__key(r, "linear_attn_config", 1);
    ck__reader sub = ck__inside(r, dict, "linear_attn_config.");
    if (!r->rc && json_typeof(dict) != JSON_OBJECT) ck__expected(r, "linear_attn_config", dict, "an object");
    if (r->rc) return;
    const size_t listed = json_count(json_get(dict, "full_attn_layers")) + json_count(json_get(dict, "kda_layers"));
    if (listed != (size_t)m->num_hidden_layers) { /* which bounds these by what the file holds */
        ck__expected(r, "linear_attn_config", dict, "num_hidden_layers layers in full_attn_layers and kda_layers");
        return;
    }
    c->recurrent = (char *)calloc(listed + 1, 1);
    if (!c->recurrent) r->rc = sub.rc = ck__no_memory(r->err, r->file);
    ck__read_kind(c, &sub, "full_attn_layers", 1);
    ck__read_kind(c, &sub, "kda_layers", 2);
    for (size_t i = 0; i < listed && !sub.rc; i++) c->recurrent[i] = c->recurrent[i] == 2;
    m->linear_num_heads = ck__int(&sub, "num_heads", 1, INT_MAX, ck__required);
    m->linear_head_dim = ck__int(&sub, "head_dim", 1, INT_MAX, ck__required);
    m->linear_conv_kernel_dim = ck__int(&sub, "short_conv_kernel_size", 1, INT_MAX, ck__required);
    r->rc = sub.rc;
    m->rope.layout = MLA_ROPE_NONE;
    if (!ck__bool(r, "mla_use_nope", 1))
        ck__expected(r, "mla_use_nope", json_get(r->object, "mla_use_nope"), "true: nothing rotates");
}

/* Ling 3: the last layer of each group is MLA, and all behind the last whole group. KDA has attention's heads. */
static void ck__read_groups_of_layers(checkpoint *c, ck__plan *plan, ck__reader *r) {
    mla_config *m = &c->config;
    if (!(plan->family->has & CK__BAILING)) return;
    const int L = m->num_hidden_layers, group = ck__int(r, "layer_group_size", 1, INT_MAX, ck__required);
    const json_value *bound = ck__key(r, "kda_lower_bound", 0);
    m->linear_num_heads = m->num_attention_heads;
    m->linear_head_dim = ck__int(r, "head_dim", 1, INT_MAX, ck__required);
    m->linear_conv_kernel_dim = ck__int(r, "short_conv_kernel_size", 1, INT_MAX, 4);
    if (bound && !(json_number(bound) < 0 && json_number(bound) > -FLT_MAX))
        ck__expected(r, "kda_lower_bound", bound, "a number below 0, and above -3.4e38");
    plan->pairs = !ck__bool(r, "no_kda_lora", 1);
    ck__key(r, "gated_attention_proj_granularity_type", 0); /* of heads or channels: the tensor's shape says it */
    if (ck__bool(r, "kda_safe_gate", 1)) m->kda_lower_bound = bound ? (float)json_number(bound) : -5;
    for (size_t i = 0; i < json_count(r->object); i++) { /* of Ling-3.0-flash; not here */
        const json_value *v = json_at(r->object, i);
        if ((strstr(json_key(v), "clamp") || strstr(json_key(v), "swiglu_limit")) && json_typeof(v) != JSON_NULL)
            ck__expected(r, json_key(v), v, "null: this family's clamps are not known here");
    }
    if (r->rc) return;
    if (L > 65536) ck__expected(r, "num_hidden_layers", json_get(r->object, "num_hidden_layers"), "at most 65536");
    else if (!(c->recurrent = (char *)calloc((size_t)L + 1, 1))) r->rc = ck__no_memory(r->err, r->file);
    for (int i = 0; i < L && !r->rc; i++) c->recurrent[i] = (i + 1) % group != 0 && i < L / group * group;
}

static void ck__read_indexer(checkpoint *c, ck__plan *plan, ck__reader *r) {
    mla_config *m = &c->config;
    plan->index_freq = 1;
    if (!(plan->family->has & CK__INDEXER)) return;
    m->index_topk = ck__int(r, "index_topk", 1, INT_MAX, ck__required);
    m->index_n_heads = ck__int(r, "index_n_heads", 1, INT_MAX, ck__required);
    m->index_head_dim = ck__int(r, "index_head_dim", m->qk_rope_head_dim, INT_MAX, ck__required);
    m->index_rope =
        ck__bool(r, "indexer_rope_interleave", !(plan->family->has & CK__INDEX_HALF)) ? MLA_ROPE_PAIR : MLA_ROPE_HALF;
    if (!r->rc && m->q_lora_rank == 0)
        r->rc = ck__fail(r->err, MLA_ERR_CONFIG,
                         "%s: %sq_lora_rank: found null or 0, but an indexer takes its queries from that latent",
                         r->file, r->prefix);
    if (plan->family->has & CK__HY) m->index_rope_last = 1, m->index_norm_eps = m->block_norm.eps;
    if (plan->family->has & CK__INDEX_SHARED) ck__read_indexer_types(c, plan, r);
}

/* What each layer is, by transformers 5, must be what the other keys make of it; of indexers the weights tell. */
static void ck__check_layer_types(const checkpoint *c, ck__reader *r) {
    const json_value *types = ck__key(r, "layer_types", 0);
    const int L = c->config.num_hidden_layers, sparse = c->config.index_topk > 0;
    if (types && json_count(types) != (size_t)L)
        ck__expected(r, "layer_types", types, "one name for each of num_hidden_layers");
    for (int i = 0; types && i < L && !r->rc; i++) {
        const char *name = json__text(json_at(types, (size_t)i));
        const int kda = c->recurrent && c->recurrent[i];
        const char *want = kda ? "linear_attention" : sparse ? "deepseek_sparse_attention" : "full_attention";
        if (!name || (strcmp(name, want) && (kda || sparse || strcmp(name, "deepseek_sparse_attention"))))
            ck__expected(r, "layer_types", json_at(types, (size_t)i), want);
    }
}

/* Which layers are dense: those before first_k_dense_replace, or by transformers 5 those that mlp_layer_types calls
   so. */
static void ck__read_layer_types(const mla_config *m, ck__plan *plan, ck__reader *r) {
    const json_value *types = ck__key(r, "mlp_layer_types", 0);
    const int known = json_typeof(types) == JSON_ARRAY && json_count(types) == (size_t)m->num_hidden_layers;
    int first = 0, given;
    plan->moe_layer_freq = ck__int(r, "moe_layer_freq", 1, INT_MAX, 1);
    if (types && !known) ck__expected(r, "mlp_layer_types", types, "a list of num_hidden_layers names");
    for (int i = 0; known && i < m->num_hidden_layers && !r->rc; i++) {
        const char *name = json__text(json_at(types, (size_t)i));
        if (name && first == i && !strcmp(name, "dense")) first++;
        else if (!name || strcmp(name, "sparse"))
            ck__expected(r, "mlp_layer_types", json_at(types, (size_t)i), "\"dense\" first, then \"sparse\"");
    }
    given = ck__int(r, "first_k_dense_replace", 0, INT_MAX, known ? first : ck__required);
    if (known && !r->rc && (given != first || plan->moe_layer_freq != 1))
        r->rc = ck__fail(r->err, MLA_ERR_CONFIG,
                         "%s: mlp_layer_types has %d dense layers, but first_k_dense_replace is %d and "
                         "moe_layer_freq %d",
                         r->file, first, given, plan->moe_layer_freq);
    plan->first_k_dense_replace = given;
}

static void ck__read_experts(mla_config *m, ck__plan *plan, ck__reader *r) {
    const ck__family *family = plan->family;
    plan->moe_layer_freq = 1;
    m->n_routed_experts = ck__int(r, "n_routed_experts", 0, family->scoring_func ? INT_MAX : 0, 0);
    if (!m->n_routed_experts || r->rc) return;
    if (family->has & CK__SHORTCUT) {
        ck__pick(r, "zero_expert_type", ck__zero_experts, 0);
        m->zero_expert_num = ck__int(r, "zero_expert_num", 0, INT_MAX - m->n_routed_experts, 0);
    } else ck__read_layer_types(m, plan, r);
    m->num_experts_per_tok =
        ck__int(r, "num_experts_per_tok", 1, m->n_routed_experts + m->zero_expert_num, ck__required);
    m->moe_intermediate_size = ck__int(r, "moe_intermediate_size", 1, INT_MAX, ck__required);
    m->n_shared_experts = ck__int(r, "n_shared_experts", 0, INT_MAX, 0);
    const double shared = m->n_shared_experts * (double)m->moe_intermediate_size;
    if (family->has & CK__BAILING &&
        ck__int(r, "moe_shared_expert_intermediate_size", 1, INT_MAX, (int)fmin(shared, INT_MAX)) != shared &&
        m->n_shared_experts)
        ck__expected(r, "moe_shared_expert_intermediate_size",
                     json_get(r->object, "moe_shared_expert_intermediate_size"),
                     "num_shared_experts * moe_intermediate_size");
    m->scoring_func = (mla_scoring_func)ck__pick(r, "scoring_func", family->scoring_func, 0);
    m->topk_method = (mla_topk_method)ck__pick(r, "topk_method", family->topk_method, 0);
    m->n_group = m->topk_group = 1; /* the greedy method knows no groups, whatever these keys say */
    if (m->topk_method != MLA_TOPK_GREEDY) {
        const int absent = family->has & CK__GROUPS_IF_THERE ? 1 : ck__required;
        m->n_group = ck__int(r, "n_group", 1, m->n_routed_experts, absent);
        m->topk_group = ck__int(r, "topk_group", 1, m->n_group, m->n_group > 1 ? ck__required : absent);
    }
    m->norm_topk_prob = ck__flag(r, "norm_topk_prob", family->norm_topk_prob);
    m->routed_scaling_factor = ck__float(r, "routed_scaling_factor", FLT_MIN, ck__leaves_out(plan, 0) ? 1 : -1);
}

/* ---- >>quantization ---------------------------------------------------------------------------------------------- */
/* quantization_config, or hf_quant_config.json, becomes a list of schemes. */

static const ck__choice ck__e4m3[] = {{"e4m3", 1}, {NULL, 0}};
static const ck__choice ck__activations[] = {{"dynamic", 0}, {"static", 1}, {NULL, 0}};
static const ck__choice ck__scale_formats[] = {{"float", 0}, {"ue8m0", 1}, {NULL, 0}};
enum { CK__BY_FP8 = 1, CK__BY_GROUPS, CK__BY_MODELOPT };
static const ck__choice ck__quant_methods[] = {
    {"fp8", CK__BY_FP8}, {"compressed-tensors", CK__BY_GROUPS}, {"modelopt", CK__BY_MODELOPT}, {NULL, 0}};
static const ck__choice ck__quant_algos[] = {{"NVFP4", CK__NVFP4}, {"FP8", CK__FP8}, {NULL, 0}};
static const ck__choice ck__formats[] = {{"pack-quantized", CK__INT4},        {"float-quantized", CK__FP8},
                                         {"int-quantized", CK__INT8},         {"nvfp4-pack-quantized", CK__NVFP4},
                                         {"mxfp4-pack-quantized", CK__MXFP4}, {NULL, 0}};
static const ck__choice ck__ints[] = {{"int", 1}, {NULL, 0}};
static const ck__choice ck__floats[] = {{"float", 1}, {NULL, 0}};
enum { CK__BY_GROUP, CK__BY_CHANNEL, CK__BY_TENSOR, CK__BY_BLOCK };
static const ck__choice ck__strategies[] = {{"group", CK__BY_GROUP},
                                            {"channel", CK__BY_CHANNEL},
                                            {"tensor", CK__BY_TENSOR},
                                            {"block", CK__BY_BLOCK},
                                            {NULL, 0}};
static const ck__choice ck__tensor_groups[] = {{"tensor_group", CK__BY_GROUP}, {NULL, 0}};

/* What is not read here, and what makes something of it that is. */
static void ck__refuse_quantization(ck__reader *r, const char *key) {
    static const struct foreign {
        const char *part, *converter; /* of the name, in small letters */
    } foreign[] = {
        {"awq",
         "AWQ is not read here: llm-compressor makes compressed-tensors of the unquantized model, or of this one "
         "the AutoAWQ converter of compressed-tensors"},
        {"gptq", "GPTQ is not read here: llama.cpp's convert_hf_to_gguf.py makes a GGUF of it, llm-compressor "
                 "compressed-tensors of the unquantized model"},
        {"mxfp8", "MXFP8 is not read here: llm-compressor makes float-quantized fp8 of the unquantized model"}};
    const char *name = json__text(json_get(r->object, key));
    char lower[48];
    size_t n = 0;
    for (; name && name[n] && n < sizeof lower - 1; n++)
        lower[n] = (char)(name[n] >= 'A' && name[n] <= 'Z' ? name[n] + 32 : name[n]);
    lower[n] = 0;
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign && !r->rc; i++)
        if (strstr(lower, foreign[i].part))
            r->rc = ck__fail(r->err, MLA_ERR_UNSUPPORTED, "%s: %s%s \"%.40s\": %s", r->file, r->prefix, key, name,
                             foreign[i].converter);
}

static void ck__add_scheme(ck__plan *plan, ck__reader *r, ck__kind kind, int rows, int cols) {
    const ck__scheme scheme = {kind, rows, cols};
    if (plan->n_schemes < (int)(sizeof plan->schemes / sizeof *plan->schemes))
        plan->schemes[plan->n_schemes++] = scheme;
    else if (!r->rc)
        r->rc = ck__fail(r->err, MLA_ERR_UNSUPPORTED, "%s: %sconfig_groups: more than %d ways of quantizing", r->file,
                         r->prefix, plan->n_schemes);
}

/* Two sizes from 1 on: 0 if they are none. */
static int ck__block_sizes(const json_value *v, int *rows, int *cols) {
    int64_t size[2];
    if (json_typeof(v) != JSON_ARRAY || json_count(v) != 2) return 0;
    for (size_t i = 0; i < 2; i++)
        if (!json_integer(json_at(v, i), &size[i]) || size[i] < 1 || size[i] > INT_MAX) return 0;
    *rows = (int)size[0], *cols = (int)size[1];
    return 1;
}

/* compressed-tensors: the weights of one of config_groups. */
static void ck__read_weights(ck__plan *plan, ck__reader *r, int format) {
    const int fp4 = format == CK__NVFP4 || format == CK__MXFP4, ints = format == CK__INT4 || format == CK__INT8;
    const int bits = ints && format == CK__INT8 ? 8 : format == CK__FP8 ? 8 : 4, size = format == CK__NVFP4 ? 16 : 32;
    int rows = 1, cols = 0;
    ck__int(r, "num_bits", bits, bits, ck__required);
    ck__pick(r, "type", ints ? ck__ints : ck__floats, !ints);
    const int by = ck__pick(r, "strategy", format == CK__NVFP4 ? ck__tensor_groups : ck__strategies, 1);
    if (by == CK__BY_GROUP) cols = ck__int(r, "group_size", fp4 ? size : 1, fp4 ? size : INT_MAX, ck__required);
    else if (fp4 || (by != CK__BY_CHANNEL && format == CK__INT4))
        ck__expected(r, "strategy", json_get(r->object, "strategy"), fp4 ? "\"group\"" : "\"group\" or \"channel\"");
    if (by == CK__BY_TENSOR) rows = 0;
    if (by == CK__BY_BLOCK && !r->rc && !ck__block_sizes(json_get(r->object, "block_structure"), &rows, &cols))
        ck__expected(r, "block_structure", json_get(r->object, "block_structure"), "two sizes");
    if (!ck__bool(r, "symmetric", 1)) {
        if (format == CK__INT4) format = CK__INT4_ZEROS;
        else ck__expected(r, "symmetric", json_get(r->object, "symmetric"), "true");
    }
    if (!r->rc) ck__add_scheme(plan, r, (ck__kind)format, rows, cols);
}

/* compressed-tensors: groups of layers, each with its format, or all with one. */
static void ck__read_groups(ck__plan *plan, ck__reader *r) {
    const json_value *groups = ck__key(r, "config_groups", 1), *all = json_get(r->object, "format");
    if (!r->rc && (json_typeof(groups) != JSON_OBJECT || !json_count(groups)))
        ck__expected(r, "config_groups", groups, "an object of groups");
    for (size_t i = 0; i < json_count(groups) && !r->rc; i++) {
        const json_value *group = json_at(groups, i), *weights = json_get(group, "weights");
        const int own = json_typeof(json_get(group, "format")) != JSON_NULL || json_typeof(all) == JSON_NULL;
        ck__reader of = ck__inside(r, group, "quantization_config.config_groups."), *said = own ? &of : r;
        ck__reader sub = ck__inside(r, weights, "quantization_config.config_groups.weights.");
        if (json_typeof(weights) != JSON_OBJECT) {
            ck__expected(r, "config_groups", groups, "an object of groups that have weights");
            return;
        }
        ck__refuse_quantization(said, "format");
        const int format = ck__pick(said, "format", ck__formats, 1);
        if (format == CK__INT4 && json_typeof(json_get(group, "input_activations")) != JSON_NULL)
            ck__expected(said, "config_groups", json_get(group, "input_activations"), "input_activations null");
        sub.rc = said->rc;
        ck__read_weights(plan, &sub, format);
        r->rc = sub.rc;
    }
}

/* DeepSeek's fp8, and Mistral's, which has null for a block of all. */
static void ck__read_fp8(ck__plan *plan, ck__reader *r) {
    const json_value *block = json_get(r->object, "weight_block_size");
    int rows = 0, cols = 0;
    ck__pick(r, "fmt", ck__e4m3, 0);
    ck__pick(r, "activation_scheme", ck__activations, 0);
    plan->ue8m0 = ck__pick(r, "scale_fmt", ck__scale_formats, 0);
    plan->scale_name = "weight_scale_inv";
    if (!block) ck__key(r, "weight_block_size", 1);
    else if (json_typeof(block) != JSON_NULL && !ck__block_sizes(block, &rows, &cols))
        ck__expected(r, "weight_block_size", block, "two sizes, such as [128, 128], or null");
    ck__add_scheme(plan, r, CK__FP8, rows, cols);
}

static void ck__read_modelopt(ck__plan *plan, ck__reader *r) {
    ck__refuse_quantization(r, "quant_algo");
    const int kind = ck__pick(r, "quant_algo", ck__quant_algos, 1), fp4 = kind == CK__NVFP4;
    if (fp4) ck__int(r, "group_size", 16, 16, 16);
    ck__add_scheme(plan, r, (ck__kind)kind, fp4, fp4 ? 16 : 0);
}

static void ck__read_quantization(ck__plan *plan, ck__reader *r) {
    const json_value *dict = ck__key(r, "quantization_config", 0);
    ck__reader sub = ck__inside(r, dict, "quantization_config.");
    if (!dict || r->rc) return;
    if (json_typeof(dict) != JSON_OBJECT) {
        ck__expected(r, "quantization_config", dict, "an object");
        return;
    }
    ck__refuse_quantization(&sub, "quant_method");
    const int method = ck__pick(&sub, "quant_method", ck__quant_methods, 1);
    plan->scale_name = "weight_scale";
    if (method == CK__BY_FP8) ck__read_fp8(plan, &sub);
    else if (method == CK__BY_GROUPS) ck__read_groups(plan, &sub);
    else ck__read_modelopt(plan, &sub);
    r->rc = sub.rc;
}

/* ModelOpt's own file: {"producer": .., "quantization": {"quant_algo": ..}}. */
static mla_result ck__read_hf_quant(ck__plan *plan, const json_value *object, mla_error *err) {
    ck__reader outer = ck__read("hf_quant_config.json", object, err);
    const json_value *dict = ck__key(&outer, "quantization", 1);
    ck__reader r = ck__inside(&outer, dict, "quantization.");
    if (!r.rc && json_typeof(dict) != JSON_OBJECT) ck__expected(&r, "quantization", dict, "an object");
    plan->scale_name = "weight_scale";
    if (!r.rc && json_typeof(json_get(dict, "quant_algo")) != JSON_NULL)
        ck__read_modelopt(plan, &r); /* null: the cache */
    return r.rc;
}

/* ---- >>config-file ----------------------------------------------------------------------------------------------- */

static void ck__read_eos(checkpoint *c, ck__reader *r) {
    const json_value *v = ck__key(r, "eos_token_id", 0);
    const int list = json_typeof(v) == JSON_ARRAY;
    const size_t n = list ? json_count(v) : v ? 1 : 0;
    if (n > sizeof c->eos_token_id / sizeof c->eos_token_id[0]) ck__expected(r, "eos_token_id", v, "at most 8 ids");
    for (size_t i = 0; i < n && !r->rc; i++) {
        int64_t id;
        if (!json_integer(list ? json_at(v, i) : v, &id) || id < 0 || id >= c->config.vocab_size)
            ck__expected(r, "eos_token_id", list ? json_at(v, i) : v, "a token id from 0 to vocab_size - 1");
        else c->eos_token_id[i] = (int)id;
    }
    if (n && !r->rc) c->n_eos = (int)n;
}

/* Factors that some families have. */
static void ck__read_scales(mla_config *m, const ck__plan *plan, ck__reader *r) {
    const double D = m->hidden_size, Q = m->q_lora_rank, R = m->kv_lora_rank;
    if (plan->family->has & CK__LORA_SCALES) {
        if (ck__bool(r, "mla_scale_q_lora", 1) && Q > 0) m->q_scale = (float)sqrt(D / Q);
        if (ck__bool(r, "mla_scale_kv_lora", 1)) m->latent_scale = (float)sqrt(D / R);
    }
    if (plan->family->has & CK__MUP_SCALES) {
        m->embed_scale = ck__float(r, "scale_emb", FLT_MIN, -1);
        m->residual_scale =
            (float)((double)ck__float(r, "scale_depth", FLT_MIN, -1) / sqrt((double)m->num_hidden_layers));
        m->logits_scale = (float)((double)ck__float(r, "dim_model_base", FLT_MIN, -1) / D);
    }
}

/* The part of config.json that is the language model, with where it stands as the prefix; without, all of it. */
static ck__reader ck__language_part(ck__plan *plan, ck__reader *outer) {
    static const char *const prefixes[] = {"text_config.", "language_config."};
    for (size_t i = 0; i < 2; i++) {
        const json_value *part = ck__key(outer, ck__parts[i], 0);
        if (!part) continue;
        plan->nested = 1; /* a model that sees, too: its language model stands apart */
        if (json_typeof(part) != JSON_OBJECT) ck__expected(outer, ck__parts[i], part, "an object");
        return ck__inside(outer, part, prefixes[i]);
    }
    return *outer;
}

/* Its model_type; if a part says none, by its architecture, or else by the model around it; NULL: not known. */
static const char *ck__type_of(const ck__plan *plan, const ck__reader *outer, const ck__reader *r) {
    const char *type = json__text(json_get(r->object, "model_type")), *around, *architecture;
    if (type || !plan->nested) return type;
    architecture = json__text(json_at(json_get(r->object, "architectures"), 0));
    around = json__text(json_get(outer->object, "model_type"));
    for (int i = 0; i < CK__N_FAMILIES && architecture; i++)
        if (!strcmp(architecture, ck__families[i].architecture)) return ck__families[i].model_type;
    for (size_t i = 0; i < sizeof ck__outers / sizeof *ck__outers && around; i++)
        if (!strcmp(around, ck__outers[i].model_type)) return ck__outers[i].inner;
    return NULL;
}

static const ck__family *ck__read_family(const ck__plan *plan, const ck__reader *outer, ck__reader *r) {
    const char *type = r->rc ? NULL : ck__type_of(plan, outer, r);
    ck__choice types[CK__N_FAMILIES + 1];
    memset(types, 0, sizeof types);
    for (int i = 0; i < CK__N_FAMILIES; i++) {
        types[i].name = ck__families[i].model_type;
        types[i].value = i;
        if (type && !strcmp(type, types[i].name)) return &ck__families[i];
    }
    for (size_t i = 0; i < sizeof ck__refused / sizeof *ck__refused && type && !r->rc; i++)
        if (!strcmp(type, ck__refused[i].model_type))
            r->rc = ck__fail(r->err, MLA_ERR_UNSUPPORTED, "%s: %smodel_type \"%s\" is not supported: it needs %s",
                             r->file, r->prefix, type, ck__refused[i].needs);
    return &ck__families[ck__pick(r, "model_type", types, 1)];
}

/* The part, unless the key is not in it. Both know of an error in one. */
static ck__reader *ck__where(ck__reader *part, ck__reader *outer, const char *key) {
    part->rc = outer->rc = part->rc ? part->rc : outer->rc;
    return json_typeof(json_get(part->object, key)) == JSON_NULL ? outer : part;
}

/* Of n-gram embeddings: k (N-1) tables of D / (k (N-1)) columns, number i of ratio * vocab_size + 2 i + 1 rows. */
static void ck__read_ngram(mla_config *m, ck__plan *plan, ck__reader *r) {
    m->emb_neighbor_num = ck__int(r, "emb_neighbor_num", 2, 64, ck__required);
    m->emb_split_num = ck__int(r, "emb_split_num", 1, 65536, ck__required);
    const int tables = m->emb_split_num * (m->emb_neighbor_num - 1);
    plan->ngram_ratio = ck__int(r, "ngram_vocab_size_ratio", 1, INT_MAX, ck__required);
    plan->ngram_tables = r->rc ? 0 : (size_t)tables;
    if (!r->rc && m->hidden_size % tables)
        r->rc = ck__fail(r->err, MLA_ERR_CONFIG, "%s: %semb_split_num: %d tables do not divide hidden_size %d", r->file,
                         r->prefix, tables, m->hidden_size);
}

static void ck__read_sizes(checkpoint *c, ck__plan *plan, ck__reader *r) {
    mla_config *m = &c->config;
    const int per_layer = plan->family->has & CK__SHORTCUT ? 2 : 1;
    m->vocab_size = ck__int(r, "vocab_size", 1, INT_MAX, ck__required);
    m->hidden_size = ck__int(r, "hidden_size", 1, INT_MAX, ck__required);
    m->num_hidden_layers = per_layer * ck__int(r, "num_hidden_layers", 1, INT_MAX / per_layer, ck__required);
    const int mtp = ck__int(r, "num_nextn_predict_layers", 0, plan->mtp ? INT_MAX - m->num_hidden_layers : INT_MAX, 0);
    if (plan->mtp && !(plan->family->has & (CK__SHORTCUT | CK__HY | CK__BAILING))) /* whose layer is another */
        m->num_nextn_predict_layers = mtp;
    m->intermediate_size = ck__int(r, "intermediate_size", 1, INT_MAX, ck__required);
    m->num_attention_heads = ck__int(r, "num_attention_heads", 1, INT_MAX, ck__required);
    m->q_lora_rank = ck__int(r, "q_lora_rank", 0, INT_MAX, 0);
    m->kv_lora_rank = ck__int(r, "kv_lora_rank", 1, INT_MAX, ck__required);
    m->qk_nope_head_dim = ck__int(r, "qk_nope_head_dim", 1, INT_MAX, ck__required);
    m->qk_rope_head_dim =
        ck__int(r, "qk_rope_head_dim", (plan->family->has & CK__LINEAR_ATTN) == 0, INT_MAX, ck__required);
    m->v_head_dim =
        ck__int(r, "v_head_dim", 1, INT_MAX,
                plan->family->has & CK__OLD_DEFAULTS ? m->hidden_size / m->num_attention_heads : ck__required);
    if (plan->family->has & CK__NGRAM) ck__read_ngram(m, plan, r);
    if (plan->family->has & CK__HY) {
        m->hc_mult = ck__int(r, "hc_mult", 1, 64, ck__required);
        m->hc_eps = ck__float(r, "hc_eps", 0, 1e-6);
        m->hc_magnitude = ck__float(r, "hc_magnitude", FLT_MIN, -1);
        m->swiglu_limit = ck__float(r, "swiglu_limit", 0, 0);
    }
    if (plan->family->has & CK__QUERY_GATE) m->q_gate = m->q_twice = 1;
    if (plan->family->has & CK__GATED_NORM) m->norm_gate_rank = ck__int(r, "gated_norm_rank", 1, INT_MAX, ck__required);
    c->max_position_embeddings = ck__int(r, "max_position_embeddings", 1, INT_MAX, ck__required);
    m->block_norm.eps = ck__float(r, "rms_norm_eps", FLT_MIN, ck__leaves_out(plan, 0) ? 1e-6 : -1);
    /* whatever rms_norm_eps says, in all families but one */
    m->q_norm.eps = m->kv_norm.eps = plan->family->has & CK__LATENT_EPS ? m->block_norm.eps : 1e-6f;
}

static mla_result ck__read_config(checkpoint *c, ck__plan *plan, const json_value *object, mla_error *err) {
    mla_config *m = &c->config;
    ck__asked asked = {{NULL}, 0};
    ck__reader outer = ck__read("config.json", object, err), reader, *r = &reader;
    outer.asked = &asked;
    reader = ck__language_part(plan, &outer);
    r->rc = outer.rc;
    plan->family = ck__read_family(plan, &outer, r);
    r->renames = plan->family->keys;
    snprintf(c->model_type, sizeof c->model_type, "%s", plan->family->model_type);
    ck__pick(r, "hidden_act", ck__silu, 0);
    ck__read_fixed(r);
    ck__read_sizes(c, plan, r);
    if (!(plan->family->has & CK__LINEAR_ATTN)) ck__read_rope(c, plan, r);
    ck__read_linear(c, plan, r);
    ck__read_groups_of_layers(c, plan, r);
    ck__read_indexer(c, plan, r);
    ck__check_layer_types(c, r);
    ck__read_experts(m, plan, r);
    ck__read_scales(m, plan, r);
    plan->attention_bias = ck__bool(r, "attention_bias", 0);
    plan->sandwich = plan->family->has & CK__SANDWICH && ck__bool(r, "sandwich_norm", 0);
    /* the rest may be outside the part, too */
    ck__read_quantization(plan, ck__where(r, &outer, "quantization_config"));
    plan->tied = ck__flag(ck__where(r, &outer, "tie_word_embeddings"), "tie_word_embeddings", plan->family->tied);
    c->bos_token_id = ck__int(ck__where(r, &outer, "bos_token_id"), "bos_token_id", 0, m->vocab_size - 1, -1);
    ck__read_eos(c, ck__where(r, &outer, "eos_token_id"));
    ck__note_keys(c, r->object, &asked);
    ck__note_keys(c, json_get(r->object, "rope_scaling"), &asked);
    ck__note_keys(c, json_get(r->object, "rope_parameters"), &asked);
    return r->rc ? r->rc : outer.rc;
}

/* ---- >>shards ---------------------------------------------------------------------------------------------------- */

typedef struct ck__entry {
    const st_tensor *tensor;
    const st_file *file;
    int used;
} ck__entry;

typedef struct ck__table { /* all tensors of all files, by name */
    ck__entry *entries;
    size_t count;
    const char *source; /* the file to be named where a tensor is in none */
} ck__table;

static const char ck__index_name[] = "model.safetensors.index.json";

static int ck__by_name(const void *a, const void *b) {
    return strcmp(((const ck__entry *)a)->tensor->name, ((const ck__entry *)b)->tensor->name);
}

static int ck__by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static ck__entry *ck__lookup(const ck__table *t, const char *name) {
    st_tensor tensor;
    ck__entry wanted;
    if (!t->count) return NULL;
    tensor.name = name;
    wanted.tensor = &tensor;
    return (ck__entry *)bsearch(&wanted, t->entries, t->count, sizeof wanted, ck__by_name);
}

static char *ck__join(const char *dir, const char *name) {
    const size_t n = strlen(dir) + strlen(name) + 2;
    char *path = (char *)malloc(n);
    if (path) snprintf(path, n, "%s/%s", dir, name);
    return path;
}

/* list: it names all tensors. *out stays NULL if there is no such file and missing is not NULL. */
static mla_result ck__read_json(json_value **out, const char *dir, const char *name, int list, mla_result code,
                                int *missing, mla_error *err) {
    char *path = ck__join(dir, name), *text = NULL;
    size_t n = 0;
    if (missing) *missing = 0;
    mla_result rc = path ? checkpoint_read(&text, &n, path, list ? json__bytes_of_list : json__bytes, missing, err)
                         : ck__no_memory(err, name);
    *out = NULL;
    free(path);
    if (!rc) rc = json__parse(text, n, list ? JSON__VALUES : JSON__SETTINGS, name, code, out, err);
    free(text);
    return rc;
}

static mla_result ck__open_shard(st_file **out, const char *dir, const char *name, int *missing, mla_error *err) {
    char *path = ck__join(dir, name);
    if (missing) *missing = 0;
    mla_result rc = path ? st__open(out, path, missing, err) : ck__no_memory(err, name);
    free(path);
    return rc;
}

static mla_result ck__make_table(ck__table *t, st_file **files, size_t n_files, const char *source, mla_error *err) {
    size_t n = 0;
    for (size_t i = 0; i < n_files; i++) n += st_count(files[i]);
    t->source = source;
    t->entries = (ck__entry *)calloc(n + 1, sizeof *t->entries);
    if (!t->entries) return ck__no_memory(err, source);
    for (size_t i = 0; i < n_files; i++)
        for (size_t j = 0; j < st_count(files[i]); j++) {
            t->entries[t->count].tensor = st_at(files[i], j);
            t->entries[t->count++].file = files[i];
        }
    qsort(t->entries, t->count, sizeof *t->entries, ck__by_name);
    for (size_t i = 1; i < t->count; i++)
        if (!ck__by_name(&t->entries[i - 1], &t->entries[i]))
            return ck__fail(err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\" is in two shards, %.50s and %.50s", source,
                            t->entries[i].tensor->name, t->entries[i - 1].file->name, t->entries[i].file->name);
    return MLA_OK;
}

/* names [json_count(map)]: scratch. Opens every shard once, then compares what the index says with what is in them. */
static mla_result ck__follow_index(checkpoint *c, const char *dir, const json_value *map, const char **names,
                                   ck__table *t, mla_error *err) {
    size_t n = 0;
    mla_result rc = MLA_OK;
    for (size_t i = 0; i < json_count(map); i++) {
        const char *shard = json__text(json_at(map, i));
        if (!shard || !*shard || strpbrk(shard, "/\\:") || !strcmp(shard, ".") || !strcmp(shard, ".."))
            return ck__fail(err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\": shard \"%.40s\" is no plain file name",
                            ck__index_name, json_key(json_at(map, i)), shard ? shard : "");
        names[i] = shard;
    }
    qsort((void *)names, json_count(map), sizeof *names, ck__by_text);
    for (size_t i = 0; i < json_count(map); i++)
        if (i == 0 || strcmp(names[i], names[n - 1])) names[n++] = names[i];
    c->files = (st_file **)calloc(n + 1, sizeof *c->files);
    if (!c->files) return ck__no_memory(err, ck__index_name);
    for (; c->n_files < n && !rc; c->n_files += !rc)
        rc = ck__open_shard(&c->files[c->n_files], dir, names[c->n_files], NULL, err);
    if (!rc) rc = ck__make_table(t, c->files, c->n_files, ck__index_name, err);
    for (size_t i = 0; i < json_count(map) && !rc; i++) {
        const char *name = json_key(json_at(map, i)), *said = json__text(json_at(map, i));
        const ck__entry *e = ck__lookup(t, name);
        const char **at =
            (const char **)bsearch((const void *)&said, (const void *)names, n, sizeof *names, ck__by_text);
        if (!e)
            rc = ck__fail(err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\" is in no shard, expected in %.60s",
                          ck__index_name, name, said);
        else if (e->file != c->files[at - names])
            rc = ck__fail(err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\" is in shard %.40s, expected in %.40s",
                          ck__index_name, name, e->file->name, said);
    }
    for (size_t i = 0; i < t->count && !rc; i++)
        if (!json_get(map, t->entries[i].tensor->name))
            rc = ck__fail(err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\" of shard %.60s is not in the index",
                          ck__index_name, t->entries[i].tensor->name, t->entries[i].file->name);
    return rc;
}

static mla_result ck__open_files(checkpoint *c, const char *dir, ck__table *t, mla_error *err) {
    int missing = 0;
    json_value *index_json = NULL;
    st_file *single = NULL;
    mla_result rc = ck__open_shard(&single, dir, "model.safetensors", &missing, err);
    if (!rc) {
        c->files = (st_file **)calloc(1, sizeof *c->files);
        if (!c->files) {
            st_close(single);
            return ck__no_memory(err, "model.safetensors");
        }
        c->files[c->n_files++] = single;
        return ck__make_table(t, c->files, 1, "model.safetensors", err);
    }
    if (!missing) return rc;
    rc = ck__read_json(&index_json, dir, ck__index_name, 1, MLA_ERR_WEIGHTS, &missing, err);
    if (rc && missing)
        return ck__fail(err, MLA_ERR_ARGUMENT, "neither model.safetensors nor %s is in %.140s", ck__index_name, dir);
    if (rc) return rc;
    const json_value *map = json_get(index_json, "weight_map");
    const char **names = (const char **)calloc(json_count(map) + 1, sizeof *names);
    if (json_typeof(map) != JSON_OBJECT || !json_count(map))
        rc = ck__fail(err, MLA_ERR_WEIGHTS, "%s: weight_map is not an object of shard names", ck__index_name);
    else if (!names) rc = ck__no_memory(err, ck__index_name);
    else rc = ck__follow_index(c, dir, map, names, t, err);
    free((void *)names);
    json_free(index_json);
    return rc;
}

/* ---- >>weights --------------------------------------------------------------------------------------------------- */
/* Tensors are asked for by the names that a language model alone has for them; ck__full makes of these what they are in
   the files. All are bound twice if any must be repacked: first without memory, to measure. */

typedef struct ck__binder {
    const ck__table *table;
    const ck__plan *plan;
    size_t n_quantized;    /* matrices met so far */
    unsigned char *memory; /* of those that are repacked; NULL: only measure */
    size_t used;
    mla_result rc;
    mla_error *err;
} ck__binder;

static const char *ck__shape(char text[64], const int64_t *dims, int n_dims) {
    int n = 0;
    text[0] = 0;
    for (int i = 0; i < n_dims && n < 40; i++)
        n += snprintf(text + n, 64 - (size_t)n, i ? ", %lld" : "%lld", (long long)dims[i]);
    return text;
}

static const char *ck__full(char full[160], const ck__plan *plan, const char *prefix, const char *name) {
    static const char model[] = "model.";
    const size_t n = sizeof model - 1;
    if (!strncmp(prefix, model, n)) snprintf(full, 160, "%s%s%s", plan->body, prefix + n, name);
    else if (!*prefix && !strncmp(name, model, n)) snprintf(full, 160, "%s%s", plan->body, name + n);
    else snprintf(full, 160, "%s%s%s", plan->head, prefix, name);
    return full;
}

/* prefix + name + suffix, NULL if there is none. */
static ck__entry *ck__find(const ck__binder *b, const char *prefix, const char *name, const char *suffix) {
    char full[160], part[128];
    snprintf(part, sizeof part, "%s%s", name, suffix);
    return ck__lookup(b->table, ck__full(full, b->plan, prefix, part));
}

/* prefix + name, a tensor of these dimensions: it must be there. */
static ck__entry *ck__take(ck__binder *b, const char *prefix, const char *name, int n_dims, const int64_t *dims) {
    char full[160], expected[64], found[64];
    ck__entry *e;
    if (b->rc) return NULL;
    e = ck__lookup(b->table, ck__full(full, b->plan, prefix, name));
    int fits = e && e->tensor->n_dims == n_dims, fits_int = 1;
    for (int i = 0; i < n_dims; i++) {
        fits = fits && e->tensor->dims[i] == dims[i];
        fits_int = fits_int && dims[i] <= INT_MAX;
    }
    ck__shape(expected, dims, n_dims);
    if (!fits_int)
        b->rc = ck__fail(b->err, MLA_ERR_CONFIG, "config.json: tensor \"%.99s\" would have shape [%s], too large", full,
                         expected);
    else if (!e)
        b->rc = ck__fail(b->err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\" is missing, expected with shape [%s]",
                         b->table->source, full, expected);
    else if (!fits)
        b->rc = ck__fail(b->err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\": found shape [%s], expected [%s]",
                         e->file->name, full, ck__shape(found, e->tensor->dims, e->tensor->n_dims), expected);
    if (b->rc) return NULL;
    e->used = 1;
    return e;
}

static void ck__wrong_dtype(ck__binder *b, const ck__entry *e, const char *expected) {
    if (!b->rc)
        b->rc = ck__fail(b->err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\": found dtype %s, expected %s", e->file->name,
                         e->tensor->name, e->tensor->dtype, expected);
}

static int ck__dtype_is(const ck__entry *e, const char *dtype) { return !strcmp(e->tensor->dtype, dtype); }

static mla_tensor ck__view(const void *data, mla_dtype dtype, int64_t rows, int64_t cols) {
    mla_tensor t;
    memset(&t, 0, sizeof t);
    t.data = data;
    t.dtype = dtype;
    t.rows = (int)rows;
    t.cols = (int)cols;
    return t;
}

/* The last n_dims of [depth, rows, cols], not quantized; three are given as a matrix of depth * rows. */
static mla_tensor ck__bind(ck__binder *b, const char *prefix, const char *name, int n_dims, int64_t depth, int64_t rows,
                           int64_t cols) {
    const int64_t dims[3] = {depth, rows, cols};
    mla_tensor t;
    const ck__entry *e = ck__take(b, prefix, name, n_dims, dims + 3 - n_dims);
    const st__dtype *dtype = e ? st__dtype_named(e->tensor->dtype) : NULL;
    memset(&t, 0, sizeof t);
    if (!e || !dtype) return t;
    if (dtype->dtype < 0 || dtype->dtype > MLA_BF16) {
        ck__wrong_dtype(b, e, "F32, F16 or BF16");
    } else if (rows > INT_MAX / depth) {
        b->rc = ck__fail(b->err, MLA_ERR_CONFIG, "config.json: tensor \"%.99s\" would have %lld rows, too many",
                         e->tensor->name, (long long)(depth * rows));
    } else t = ck__view(e->tensor->data, (mla_dtype)dtype->dtype, depth * rows, cols);
    return t;
}

/* ---- >>packed ---------------------------------------------------------------------------------------------------- */
/* Quantized matrices [out, in]. What config.json says must agree with what is there. */

static int64_t ck__blocks(int64_t n, int size) { return size ? (n + size - 1) / size : 1; }

/* Are these the scales of a scheme? One for each row may be a vector, one for all have no dimension. */
static int ck__fits(const ck__scheme *s, const st_tensor *scale, int64_t out, int64_t in) {
    const int64_t rows = ck__blocks(out, s->rows), cols = ck__blocks(in, s->cols);
    if (scale->n_dims == 2) return scale->dims[0] == rows && scale->dims[1] == cols;
    return scale->n_dims == 1 ? !s->cols && scale->dims[0] == rows : !scale->n_dims && !s->cols && !s->rows;
}

/* The scales of a matrix of that kind, which codes begin, and the scheme they fit. */
static ck__entry *ck__take_scale(ck__binder *b, const char *prefix, const char *name, const ck__entry *codes,
                                 ck__kind kind, int64_t out, int64_t in, ck__scheme *scheme) {
    static const char *const suffixes[] = {".weight_scale_inv", ".weight_scale", ".scale", ".qscale_weight"};
    ck__entry *e = NULL;
    char full[160];
    int64_t dims[2] = {0, 0};
    b->n_quantized++;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes && !e; i++) e = ck__find(b, prefix, name, suffixes[i]);
    memset(scheme, 0, sizeof *scheme);
    for (int i = 0; i < b->plan->n_schemes; i++) {
        const ck__scheme *s = &b->plan->schemes[i];
        if (s->kind != kind) continue;
        if (!scheme->kind || (e && ck__fits(s, e->tensor, out, in))) *scheme = *s;
        if (e && ck__fits(s, e->tensor, out, in)) {
            e->used = 1;
            return e;
        }
    }
    if (!scheme->kind) {
        b->rc = ck__fail(b->err, MLA_ERR_WEIGHTS,
                         "%s: tensor \"%.99s\": found %s, but config.json has no quantization_config of it",
                         codes->file->name, codes->tensor->name, ck__kind_names[kind]);
        return NULL;
    }
    dims[0] = ck__blocks(out, scheme->rows), dims[1] = ck__blocks(in, scheme->cols);
    if (!e) {
        snprintf(full, sizeof full, "%s.%s", name, b->plan->scale_name);
        return ck__take(b, prefix, full, 2, dims); /* which is missing */
    }
    char found[64], expected[64];
    b->rc =
        ck__fail(b->err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\": found shape [%s], expected [%s]", e->file->name,
                 e->tensor->name, ck__shape(found, e->tensor->dims, e->tensor->n_dims), ck__shape(expected, dims, 2));
    return NULL;
}

/* Room for so many bytes of a repacked matrix; NULL while measuring. */
static unsigned char *ck__room(ck__binder *b, uint64_t bytes) {
    unsigned char *room = b->memory ? b->memory + b->used : NULL;
    if (bytes > SIZE_MAX / 4 || b->used > SIZE_MAX / 2) b->rc = ck__no_memory(b->err, b->table->source);
    else b->used += ((size_t)bytes + 63) / 64 * 64;
    return b->rc ? NULL : room;
}

/* The f16 nearest to a bf16; infinity if there is none. */
static unsigned ck__half(unsigned bf16) {
    const unsigned sign = bf16 & 0x8000u, e = bf16 >> 7 & 255, m = bf16 & 127;
    if (e > 142) return sign | 0x7c00u;
    if (e > 112) return sign | (e - 112) << 10 | m << 3;
    if (e >= 110) return sign | (128 + m) << (e - 110); /* subnormal: units of 2^-24 */
    return e < 102 ? sign : sign | (((128 + m) + (1u << (109 - e))) >> (110 - e));
}

static unsigned ck__u16_at(const st_tensor *t, int64_t i) {
    const unsigned char *b = (const unsigned char *)t->data + 2 * i;
    return b[0] | (unsigned)b[1] << 8;
}

static float ck__f16_at(const st_tensor *t, int64_t i) {
    const unsigned h = ck__u16_at(t, i), e = h >> 10 & 31, m = h & 1023;
    const double v = e == 31 ? (m ? NAN : HUGE_VAL) : e ? ldexp(1024.0 + m, (int)e - 25) : ldexp(m, -24);
    return (float)(h >> 15 ? -v : v);
}

static float ck__e4m3_at(const st_tensor *t, int64_t i) {
    const unsigned b = ((const unsigned char *)t->data)[i], e = b >> 3 & 15, m = b & 7;
    const double v = (b & 127) == 127 ? NAN : e ? ldexp(8.0 + m, (int)e - 10) : ldexp(m, -9);
    return (float)(b >> 7 ? -v : v);
}

/* Scales where they lie, or of F16, which a tensor's cannot have, as F32. */
static void ck__place_scales(ck__binder *b, mla_tensor *t, const ck__entry *scale, const ck__scheme *scheme) {
    const int64_t n = ck__blocks(t->rows, scheme->rows) * ck__blocks(t->cols, scheme->cols);
    const int bf16 = ck__dtype_is(scale, "BF16"), f32 = ck__dtype_is(scale, "F32");
    t->scale = scale->tensor->data;
    t->scale_dtype = f32 ? MLA_F32 : bf16 ? MLA_BF16 : MLA_UE8M0;
    t->scale_rows = scheme->rows ? scheme->rows : t->rows;
    t->scale_cols = scheme->cols ? scheme->cols : t->cols;
    if (f32 || bf16) return;
    if (ck__dtype_is(scale, "F16")) {
        unsigned char *room = ck__room(b, 4 * (uint64_t)n);
        for (int64_t i = 0; i < n && room; i++) {
            const float f = ck__f16_at(scale->tensor, i);
            memcpy(room + 4 * i, &f, sizeof f);
        }
        t->scale = room, t->scale_dtype = MLA_F32;
    } else if (!b->plan->ue8m0 || (!ck__dtype_is(scale, "F8_E8M0") && !ck__dtype_is(scale, "U8")))
        ck__wrong_dtype(b, scale,
                        b->plan->ue8m0 ? "F32, BF16, F16, F8_E8M0 or U8"
                                       : "F32, BF16 or F16 (quantization_config.scale_fmt is not ue8m0)");
}

/* fp8 and int8: used where they lie. */
static mla_tensor ck__bind_codes(ck__binder *b, const char *prefix, const char *name, const ck__entry *codes,
                                 int64_t out, int64_t in) {
    const ck__kind kind = ck__dtype_is(codes, "I8") ? CK__INT8 : CK__FP8;
    const int64_t dims[2] = {out, in};
    char full[96];
    ck__scheme scheme;
    mla_tensor t;
    memset(&t, 0, sizeof t);
    snprintf(full, sizeof full, "%s.weight", name);
    if (!ck__take(b, prefix, full, 2, dims)) return t;
    const ck__entry *scale = ck__take_scale(b, prefix, name, codes, kind, out, in, &scheme);
    if (!scale) return t;
    t = ck__view(codes->tensor->data, kind == CK__INT8 ? MLA_I8 : MLA_E4M3, out, in);
    ck__place_scales(b, &t, scale, &scheme);
    return t;
}

/* A matrix whose elements are packed in some order, while it is repacked. */
typedef struct ck__packed {
    const ck__entry *codes, *scale, *zeros; /* zeros: NULL without zero points */
    mla_dtype scale_dtype;
    ck__scheme scheme;
    int64_t out, in, row_bytes, groups; /* bytes of codes and scales of a row */
    float factor;                       /* of all scales */
} ck__packed;

/* The four bits of element i of a row, low ones first. */
static int ck__nibble(const unsigned char *row, int64_t i) { return row[i / 2] >> (i % 2 * 4) & 15; }

/* The zero point of a group of an int4 row. They are packed along the rows: that of row r is in bits 4 (r % 8) of word
   r / 8 of its group's column; without, it is 8. */
static int ck__zero_of(const ck__packed *p, int64_t row, int64_t group) {
    if (!p->zeros) return 8;
    return ck__nibble((const unsigned char *)p->zeros->tensor->data + (row / 8 * p->groups + group) * 4, row % 8);
}

static void ck__not_finite(ck__binder *b, const ck__packed *p, int64_t i, const char *what) {
    if (!b->rc)
        b->rc = ck__fail(b->err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\": scale %lld is not finite%s",
                         p->scale->file->name, p->scale->tensor->name, (long long)i, what);
}

/* int4 whose scales are, or become, f16: the same values as Q4, or with zero points, which make it five bits with a
   sign, as Q5_0. bf16 below 2^-17 is rounded. */
static mla_tensor ck__int4_blocks(ck__binder *b, const ck__packed *p) {
    const mla_dtype dtype = p->zeros ? MLA_Q5_0 : MLA_Q4;
    const int64_t blocks = p->in / MLA_GROUP;
    const size_t bytes = p->zeros ? 22 : 18, head = bytes - 16;
    unsigned char *to = ck__room(b, (uint64_t)(p->out * blocks) * bytes), *const room = to;
    for (int64_t g = 0; g < p->out * blocks && to && !b->rc; g++, to += bytes) {
        const int64_t row = g / blocks, col = g % blocks * MLA_GROUP;
        const int64_t group = p->scheme.cols ? col / p->scheme.cols : 0, at = row * p->groups + group;
        const unsigned char *codes = (const unsigned char *)p->codes->tensor->data + row * p->row_bytes + col / 2;
        const unsigned bits = ck__u16_at(p->scale->tensor, at),
                       half = p->scale_dtype == MLA_F16 ? bits : ck__half(bits);
        const unsigned shift = p->zeros ? 16u - (unsigned)ck__zero_of(p, row, group) : 0; /* to the code of the block */
        uint32_t fifth = 0;
        if ((half & 0x7c00u) == 0x7c00u) ck__not_finite(b, p, at, ", or too large for an f16");
        to[0] = (unsigned char)(half & 255), to[1] = (unsigned char)(half >> 8);
        for (int i = 0; i < 16; i++) { /* elements i and i + 16 in a byte */
            const unsigned low = (unsigned)ck__nibble(codes, i) + shift,
                           high = (unsigned)ck__nibble(codes, i + 16) + shift;
            to[head + (size_t)i] = (unsigned char)((low & 15) | (high & 15) << 4);
            fifth |= (low >> 4) << i | (high >> 4) << (i + 16);
        }
        for (int i = 0; i < 4 && p->zeros; i++) to[2 + i] = (unsigned char)(fifth >> (8 * i) & 255);
    }
    return ck__view(room, dtype, p->out, p->in);
}

/* Any of four bits as I8. int4 keeps its scales; nvfp4's codes are doubled, to be whole, and its scales, which are two
   in one, become F32 for 16. */
static mla_tensor ck__as_int8(ck__binder *b, const ck__packed *p) {
    static const signed char fp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    const int floats = p->scheme.kind == CK__NVFP4;
    unsigned char *codes = ck__room(b, (uint64_t)p->out * (uint64_t)p->in);
    mla_tensor t = ck__view(codes, MLA_I8, p->out, p->in);
    const int64_t step = p->zeros && p->scheme.cols ? p->scheme.cols : p->in;
    for (int64_t row = 0; row < p->out && codes; row++)
        for (int64_t at = 0; at < p->in; at += step) { /* of one zero point */
            const unsigned char *from = (const unsigned char *)p->codes->tensor->data + row * p->row_bytes;
            const int64_t end = p->in - at < step ? p->in : at + step;
            const int zero = floats ? 0 : ck__zero_of(p, row, at / step);
            unsigned char means[16];
            for (int i = 0; i < 16; i++) means[i] = (unsigned char)(floats ? fp4[i] : i - zero);
            for (int64_t i = at; i < end; i++) *codes++ = means[ck__nibble(from, i)];
        }
    if (!floats) {
        ck__place_scales(b, &t, p->scale, &p->scheme);
        return t;
    }
    const int64_t n = p->out * p->groups;
    unsigned char *scales = ck__room(b, 4 * (uint64_t)n);
    for (int64_t i = 0; i < n && scales && !b->rc; i++) {
        const float f = ck__e4m3_at(p->scale->tensor, i) * p->factor;
        if (!(fabsf(f) <= FLT_MAX)) ck__not_finite(b, p, i, "");
        memcpy(scales + 4 * i, &f, sizeof f);
    }
    t.scale = scales;
    t.scale_dtype = MLA_F32;
    t.scale_rows = 1;
    t.scale_cols = 16;
    return t;
}

static mla_tensor ck__mxfp4_blocks(ck__binder *b, const ck__packed *p) {
    enum { BYTES = 17 };
    const int64_t n = p->out * p->groups;
    const unsigned char *codes = (const unsigned char *)p->codes->tensor->data;
    const unsigned char *scales = (const unsigned char *)p->scale->tensor->data;
    unsigned char *to = ck__room(b, (uint64_t)n * BYTES), *const room = to;
    for (int64_t g = 0; g < n && to; g++, to += BYTES, codes += 16) {
        if (scales[g] == 255) ck__not_finite(b, p, g, "");
        to[0] = scales[g];
        for (int i = 0; i < 16; i++) /* elements i and i + 16 in a byte */
            to[1 + i] = (unsigned char)(ck__nibble(codes, i) | ck__nibble(codes, i + 16) << 4);
    }
    return ck__view(room, MLA_MXFP4, p->out, p->in);
}

/* weight_shape [2], I32 or I64, must be out, in. */
static void ck__check_shape(ck__binder *b, const char *prefix, const char *name, int64_t out, int64_t in) {
    const int64_t two = 2;
    char full[96];
    int64_t shape[2] = {0, 0};
    snprintf(full, sizeof full, "%s.weight_shape", name);
    const ck__entry *n = ck__take(b, prefix, full, 1, &two);
    if (!n) return;
    const int wide = ck__dtype_is(n, "I64");
    if (!wide && !ck__dtype_is(n, "I32")) {
        ck__wrong_dtype(b, n, "I32 or I64");
        return;
    }
    for (int i = 0; i < 2; i++) {
        int32_t v;
        memcpy(&v, (const char *)n->tensor->data + 4 * i, 4);
        if (wide) memcpy(&shape[i], (const char *)n->tensor->data + 8 * i, 8);
        else shape[i] = v;
    }
    if (shape[0] != out || shape[1] != in)
        b->rc = ck__fail(b->err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\": found [%lld, %lld], expected [%lld, %lld]",
                         n->file->name, n->tensor->name, (long long)shape[0], (long long)shape[1], (long long)out,
                         (long long)in);
}

/* int4 of compressed-tensors: weight_packed I32, eight elements in a word, 8 more than they are, weight_scale,
   weight_shape, and with zero points weight_zero_point, packed along the rows. */
static mla_tensor ck__bind_int4(ck__binder *b, const char *prefix, const char *name, ck__packed *p) {
    const int64_t zeros[2] = {(p->out + 7) / 8, p->groups};
    char full[96];
    mla_tensor none;
    memset(&none, 0, sizeof none);
    ck__check_shape(b, prefix, name, p->out, p->in);
    if (p->scheme.kind == CK__INT4_ZEROS) {
        snprintf(full, sizeof full, "%s.weight_zero_point", name);
        p->zeros = ck__take(b, prefix, full, 2, zeros);
        if (p->zeros && !ck__dtype_is(p->zeros, "I32")) ck__wrong_dtype(b, p->zeros, "I32");
    }
    if (b->rc) return none;
    if (p->scale_dtype != MLA_F32 && p->in % MLA_GROUP == 0 && p->scheme.cols % MLA_GROUP == 0)
        return ck__int4_blocks(b, p);
    return ck__as_int8(b, p);
}

/* nvfp4's second scale, one for all: weight_global_scale divides, weight_scale_2 multiplies. */
static void ck__second_scale(ck__binder *b, const char *prefix, const char *name, int modelopt, ck__packed *p) {
    const int64_t one = 1;
    char full[96];
    float f = 1;
    snprintf(full, sizeof full, "%s.%s", name, modelopt ? "weight_scale_2" : "weight_global_scale");
    const ck__entry *e = ck__find(b, prefix, full, "");
    const ck__entry *second = b->rc ? NULL : ck__take(b, prefix, full, e && !e->tensor->n_dims ? 0 : 1, &one);
    if (!second) return;
    if (!ck__dtype_is(second, "F32")) ck__wrong_dtype(b, second, "F32");
    else memcpy(&f, second->tensor->data, sizeof f);
    p->factor = 0.5f * (modelopt ? f : 1 / f); /* half: the codes are doubled */
}

/* The kind of the packed matrix that codes begin, by the dtypes of it and its scales. */
static ck__kind ck__packed_kind(const ck__binder *b, const char *prefix, const char *name, const ck__entry *codes,
                                int modelopt) {
    const ck__entry *scale = ck__find(b, prefix, name, ".weight_scale");
    if (modelopt || (scale && ck__dtype_is(scale, "F8_E4M3"))) return CK__NVFP4;
    if (ck__dtype_is(codes, "U8")) {
        for (int i = 0; i < b->plan->n_schemes; i++) /* the scale is missing, or wrong: one that would be right */
            if (!(scale && ck__dtype_is(scale, "U8")) && b->plan->schemes[i].kind == CK__NVFP4) return CK__NVFP4;
        return CK__MXFP4;
    }
    return ck__find(b, prefix, name, ".weight_zero_point") ? CK__INT4_ZEROS : CK__INT4;
}

static mla_tensor ck__bind_packed(ck__binder *b, const char *prefix, const char *name, const ck__entry *codes,
                                  int64_t out, int64_t in, int modelopt) {
    const ck__kind kind = ck__packed_kind(b, prefix, name, codes, modelopt);
    const int words = kind == CK__INT4 || kind == CK__INT4_ZEROS, unit = words ? 8 : kind == CK__MXFP4 ? 32 : 16;
    const int64_t dims[2] = {out, words ? (in + 7) / 8 : in / 2};
    const ck__entry *order = ck__find(b, prefix, name, ".weight_g_idx");
    char full[96];
    ck__packed p;
    mla_tensor none;
    memset(&none, 0, sizeof none);
    memset(&p, 0, sizeof p);
    snprintf(full, sizeof full, "%s.%s", name, modelopt ? "weight" : "weight_packed");
    p.codes = ck__take(b, prefix, full, 2, dims);
    if (p.codes && !ck__dtype_is(codes, words ? "I32" : "U8")) ck__wrong_dtype(b, codes, words ? "I32" : "U8");
    if (!b->rc) p.scale = ck__take_scale(b, prefix, name, codes, kind, out, in, &p.scheme);
    if (order && !b->rc)
        b->rc = ck__fail(b->err, MLA_ERR_UNSUPPORTED,
                         "%s: tensor \"%.99s\": groups of columns in another order (act-order) are not supported",
                         order->file->name, order->tensor->name);
    if (!words && in % unit && !b->rc)
        b->rc = ck__fail(b->err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\": rows of %lld, expected a multiple of %d",
                         codes->file->name, codes->tensor->name, (long long)in, unit);
    if (b->rc) return none;
    p.out = out, p.in = in, p.groups = ck__blocks(in, p.scheme.cols), p.row_bytes = dims[1] * (words ? 4 : 1);
    const st__dtype *dtype = st__dtype_named(p.scale->tensor->dtype);
    p.scale_dtype = (mla_dtype)(dtype->dtype < 0 ? MLA_UE8M0 : dtype->dtype);
    if (words               ? p.scale_dtype > MLA_BF16
        : kind == CK__NVFP4 ? p.scale_dtype != MLA_E4M3
                            : !ck__dtype_is(p.scale, "U8") && !ck__dtype_is(p.scale, "F8_E8M0"))
        ck__wrong_dtype(b, p.scale, words ? "F32, BF16 or F16" : kind == CK__NVFP4 ? "F8_E4M3" : "U8 or F8_E8M0");
    if (words) return b->rc ? none : ck__bind_int4(b, prefix, name, &p);
    if (kind == CK__NVFP4) ck__second_scale(b, prefix, name, modelopt, &p);
    if (b->rc) return none;
    return kind == CK__NVFP4 ? ck__as_int8(b, &p) : ck__mxfp4_blocks(b, &p);
}

/* A matrix that may be quantized, in all ways. */
static mla_tensor ck__bind_matrix(ck__binder *b, const char *prefix, const char *name, int64_t out, int64_t in) {
    const ck__entry *packed = ck__find(b, prefix, name, ".weight_packed"), *e = ck__find(b, prefix, name, ".weight");
    mla_tensor none;
    char full[96];
    memset(&none, 0, sizeof none);
    if (b->rc) return none;
    if (in > INT_MAX && (packed || e)) {
        b->rc = ck__fail(b->err, MLA_ERR_CONFIG, "config.json: tensor \"%.99s\" would have rows of %lld, too large",
                         (packed ? packed : e)->tensor->name, (long long)in);
        return none;
    }
    if (packed) return ck__bind_packed(b, prefix, name, packed, out, in, 0);
    if (e && ck__dtype_is(e, "U8") && ck__find(b, prefix, name, ".weight_scale_2"))
        return ck__bind_packed(b, prefix, name, e, out, in, 1);
    if (e && (ck__dtype_is(e, "I8") || ck__dtype_is(e, "F8_E4M3"))) return ck__bind_codes(b, prefix, name, e, out, in);
    snprintf(full, sizeof full, "%s.weight", name);
    return ck__bind(b, prefix, full, 2, 1, out, in);
}

/* ---- >>layers ---------------------------------------------------------------------------------------------------- */

static mla_norm_weights ck__bind_norm(ck__binder *b, const char *prefix, const char *name, int64_t n) {
    mla_norm_weights w;
    char full[112];
    memset(&w, 0, sizeof w);
    snprintf(full, sizeof full, "%s.weight", name);
    w.weight = ck__bind(b, prefix, full, 1, 1, 1, n);
    return w;
}

/* With a gate it is three tensors; rank 0: without. */
static mla_norm_weights ck__bind_gated_norm(ck__binder *b, const char *prefix, const char *name, int64_t n,
                                            int64_t rank) {
    char inside[160];
    if (!rank) return ck__bind_norm(b, prefix, name, n);
    snprintf(inside, sizeof inside, "%s%s.", prefix, name);
    mla_norm_weights w = ck__bind_norm(b, inside, "norm", n);
    w.gate_down = ck__bind_matrix(b, inside, "W_down", rank, n);
    w.gate_up = ck__bind_matrix(b, inside, "W_up", n, rank);
    return w;
}

static mla_linear ck__bind_linear(ck__binder *b, const char *prefix, const char *name, int64_t out, int64_t in,
                                  int bias) {
    mla_linear w;
    char full[112];
    memset(&w, 0, sizeof w);
    w.weight = ck__bind_matrix(b, prefix, name, out, in);
    snprintf(full, sizeof full, "%s.bias", name);
    if (bias) w.bias = ck__bind(b, prefix, full, 1, 1, 1, out);
    return w;
}

static mla_mlp_weights ck__bind_mlp(ck__binder *b, const char *prefix, const ck__names *names, int64_t width,
                                    int64_t D) {
    mla_mlp_weights w;
    w.gate = ck__bind_linear(b, prefix, names->gate, width, D, 0);
    w.up = ck__bind_linear(b, prefix, names->up, width, D, 0);
    w.down = ck__bind_linear(b, prefix, names->down, D, width, 0);
    return w;
}

static void ck__bind_attention(ck__binder *b, const mla_config *m, const char *prefix, mla_attn_weights *w) {
    const int64_t D = m->hidden_size, H = m->num_attention_heads, R = m->kv_lora_rank, Q = m->q_lora_rank;
    const int64_t N = m->qk_nope_head_dim, P = m->qk_rope_head_dim, V = m->v_head_dim;
    const int bias = b->plan->attention_bias;
    if (Q) {
        w->q_a = ck__bind_linear(b, prefix, "q_a_proj", Q, D, bias);
        w->q_norm = ck__bind_norm(b, prefix, "q_a_layernorm", Q);
        w->q_b = ck__bind_linear(b, prefix, "q_b_proj", H * (N + P + (m->q_gate ? V : 0)), m->q_twice ? 2 * Q : Q, 0);
    } else w->q = ck__bind_linear(b, prefix, "q_proj", H * (N + P), D, 0);
    w->kv_a = ck__bind_linear(b, prefix, "kv_a_proj_with_mqa", R + P, D, bias);
    w->kv_norm = ck__bind_norm(b, prefix, "kv_a_layernorm", R);
    w->kv_b = ck__bind_linear(b, prefix, "kv_b_proj", H * (N + V), R, 0);
    w->o = ck__bind_linear(b, prefix, b->plan->family->has & CK__BAILING ? "dense" : "o_proj", D, H * V, bias);
    if (b->plan->family->has & CK__BAILING) { /* of heads or of channels */
        const ck__entry *e = ck__find(b, prefix, "g_proj", ".weight");
        const int channels = e && e->tensor->n_dims == 2 && e->tensor->dims[0] == H * V;
        w->gate = ck__bind_linear(b, prefix, "g_proj", channels ? H * V : H, D, 0);
    }
    if (!(b->plan->family->has & CK__HY)) return;
    w->gate = ck__bind_linear(b, prefix, "linear_gate", H * V, D, 0);
    w->sinks = ck__bind(b, prefix, "learnable_sink_param", 1, 1, 1, H);
}

/* [out, 1, taps] */
static mla_tensor ck__bind_conv(ck__binder *b, const char *prefix, const char *name, int64_t out, int64_t taps) {
    char full[64];
    snprintf(full, sizeof full, "%s_conv1d.weight", name);
    return ck__bind(b, prefix, full, 3, out, 1, taps);
}

/* A number for each head, in a tensor of one dimension or of four. */
static mla_tensor ck__bind_heads(ck__binder *b, const char *prefix, const char *name, int64_t heads) {
    const int64_t dims[4] = {1, 1, heads, 1};
    ck__entry *e = ck__find(b, prefix, name, "");
    mla_tensor t;
    memset(&t, 0, sizeof t);
    if (!e || e->tensor->n_dims != 4) return ck__bind(b, prefix, name, 1, 1, 1, heads);
    const st__dtype *dtype = ck__take(b, prefix, name, 4, dims) ? st__dtype_named(e->tensor->dtype) : NULL;
    if (!dtype) return t;
    if (dtype->dtype < 0 || dtype->dtype > MLA_BF16) ck__wrong_dtype(b, e, "F32, F16 or BF16");
    else t = ck__view(e->tensor->data, (mla_dtype)dtype->dtype, 1, heads);
    return t;
}

/* NAME_a_proj [C, D] and NAME_b_proj [width, C], or, of Ling 3, NAME_proj [width, D]. */
static void ck__bind_pair(ck__binder *b, const char *prefix, const char *name, int64_t width, int64_t C, int64_t D,
                          mla_linear *first, mla_linear *second) {
    char full[32], one[32];
    snprintf(one, sizeof one, "%s_proj", name);
    if (b->plan->family->has & CK__BAILING && !b->plan->pairs) {
        *second = ck__bind_linear(b, prefix, one, width, D, 0);
        return;
    }
    snprintf(full, sizeof full, "%s_a_proj", name);
    *first = ck__bind_linear(b, prefix, full, C, D, 0);
    snprintf(full, sizeof full, "%s_b_proj", name);
    *second = ck__bind_linear(b, prefix, full, width, C, 0);
}

static void ck__bind_kda(ck__binder *b, const mla_config *m, const char *prefix, mla_kda_weights *w) {
    const int64_t D = m->hidden_size, heads = m->linear_num_heads, C = m->linear_head_dim, width = heads * C;
    const int64_t taps = m->linear_conv_kernel_dim;
    w->q = ck__bind_linear(b, prefix, "q_proj", width, D, 0);
    w->k = ck__bind_linear(b, prefix, "k_proj", width, D, 0);
    w->v = ck__bind_linear(b, prefix, "v_proj", width, D, 0);
    w->q_conv = ck__bind_conv(b, prefix, "q", width, taps);
    w->k_conv = ck__bind_conv(b, prefix, "k", width, taps);
    w->v_conv = ck__bind_conv(b, prefix, "v", width, taps);
    ck__bind_pair(b, prefix, "f", width, C, D, &w->f_a, &w->f_b);
    w->a_log = ck__bind_heads(b, prefix, "A_log", heads);
    w->dt_bias = ck__bind(b, prefix, "dt_bias", 1, 1, 1, width);
    w->b = ck__bind_linear(b, prefix, "b_proj", heads, D, 0);
    ck__bind_pair(b, prefix, "g", width, C, D, &w->g_a, &w->g_b);
    w->norm = ck__bind(b, prefix, "o_norm.weight", 1, 1, 1, C);
    w->o = ck__bind_linear(b, prefix, "o_proj", D, width, 0);
}

static void ck__bind_indexer(ck__binder *b, const mla_config *m, const char *prefix, mla_indexer_weights *w) {
    const int64_t d = m->index_head_dim, heads = m->index_n_heads;
    w->wq_b = ck__bind_linear(b, prefix, "indexer.wq_b", heads * d, m->q_lora_rank, 0);
    w->wk = ck__bind_linear(b, prefix, "indexer.wk", d, m->hidden_size, 0);
    w->k_norm = ck__bind_norm(b, prefix, "indexer.k_norm", d);
    w->k_norm.bias = ck__bind(b, prefix, "indexer.k_norm.bias", 1, 1, 1, d);
    w->weights_proj = ck__bind(b, prefix, "indexer.weights_proj.weight", 2, 1, heads, m->hidden_size);
}

/* All experts of a layer in two tensors, as transformers 5 keeps them: gate_up_proj [E, 2I, D], gate rows first, and
   down_proj [E, D, I]; of fp8 with NAME_scale_inv [E, blocks of rows, blocks of columns], or [E] if one is for all. */
static const char ck__fused[] = "mlp.experts.gate_up_proj";

typedef struct ck__stack {
    mla_tensor all; /* [E * rows, cols] */
    int64_t rows;
    int64_t scales, scales_per_row; /* of an expert; 0 without */
} ck__stack;

static void ck__stack_scale(ck__binder *b, const char *layer, const char *name, const ck__entry *codes, int64_t E,
                            ck__stack *stack) {
    char full[96];
    snprintf(full, sizeof full, "%s_scale_inv", name);
    const ck__entry *e = ck__find(b, layer, full, "");
    const ck__scheme *s = NULL;
    b->n_quantized++;
    for (int i = 0; i < b->plan->n_schemes && !s; i++)
        if (b->plan->schemes[i].kind == CK__FP8) s = &b->plan->schemes[i];
    if (!s) {
        b->rc = ck__fail(b->err, MLA_ERR_WEIGHTS,
                         "%s: tensor \"%.99s\": found %s, but config.json has no quantization_config of it",
                         codes->file->name, codes->tensor->name, ck__kind_names[CK__FP8]);
        return;
    }
    const int64_t dims[3] = {E, ck__blocks(stack->rows, s->rows), ck__blocks(stack->all.cols, s->cols)};
    const ck__entry *scale =
        ck__take(b, layer, full, e && e->tensor->n_dims == 1 && dims[1] * dims[2] == 1 ? 1 : 3, dims);
    if (!scale) return;
    const int f32 = ck__dtype_is(scale, "F32");
    if (!f32 && !ck__dtype_is(scale, "BF16")) ck__wrong_dtype(b, scale, "F32 or BF16");
    if (s->rows && stack->rows / 2 % s->rows)
        b->rc = ck__fail(b->err, MLA_ERR_WEIGHTS, "%s: tensor \"%.99s\": half its rows are no multiple of %d",
                         codes->file->name, codes->tensor->name, s->rows);
    stack->all.scale = scale->tensor->data;
    stack->all.scale_dtype = f32 ? MLA_F32 : MLA_BF16;
    stack->all.scale_rows = s->rows;
    stack->all.scale_cols = s->cols ? s->cols : stack->all.cols;
    stack->scales = dims[1] * dims[2], stack->scales_per_row = dims[2];
}

static ck__stack ck__bind_stack(ck__binder *b, const char *layer, const char *name, int64_t E, int64_t rows,
                                int64_t cols) {
    const int64_t dims[3] = {E, rows, cols};
    const ck__entry *e = ck__find(b, layer, name, "");
    ck__stack stack;
    memset(&stack, 0, sizeof stack);
    stack.rows = rows;
    if (!e || !ck__dtype_is(e, "F8_E4M3")) stack.all = ck__bind(b, layer, name, 3, E, rows, cols);
    else if (ck__take(b, layer, name, 3, dims)) {
        stack.all = ck__view(e->tensor->data, MLA_E4M3, E * rows, cols);
        ck__stack_scale(b, layer, name, e, E, &stack);
    }
    return stack;
}

/* Rows first..first+n of expert e. */
static mla_tensor ck__of_stack(const ck__stack *stack, int64_t e, int64_t first, int64_t n) {
    mla_tensor part = stack->all;
    const int64_t size = part.dtype == MLA_F32    ? 4
                         : part.dtype == MLA_E4M3 ? 1
                                                  : 2,
                  scale_size = part.scale_dtype == MLA_F32 ? 4 : 2;
    part.data = (const char *)part.data + (e * stack->rows + first) * part.cols * size;
    part.rows = (int)n;
    if (!part.scale) return part;
    const int64_t blocks = part.scale_rows ? first / part.scale_rows * stack->scales_per_row : 0;
    part.scale = (const char *)part.scale + (e * stack->scales + blocks) * scale_size;
    if (!part.scale_rows) part.scale_rows = part.rows;
    return part;
}

/* What is added to the scores for the choice: must it be there? */
static mla_tensor ck__bind_router_bias(ck__binder *b, const mla_config *m, const char *layer) {
    char usual[64];
    snprintf(usual, sizeof usual, "%s.gate.%s", ck__names_of(b->plan)->ffn,
             b->plan->family->has & CK__BAILING ? "expert_bias" : "e_score_correction_bias");
    const unsigned has = b->plan->family->has;
    const int64_t n = (int64_t)m->n_routed_experts + m->zero_expert_num;
    const char *name = has & CK__SHORTCUT ? "mlp.router.e_score_correction_bias" : usual;
    if (has & CK__ROUTER_BIAS || (has & CK__BIAS_BY_METHOD && m->topk_method == MLA_TOPK_NOAUX_TC) ||
        (has & CK__BIAS_IF_THERE && ck__find(b, layer, name, "")))
        return ck__bind(b, layer, name, 1, 1, 1, n);
    return ck__view(NULL, MLA_F32, 0, 0);
}

static void ck__bind_moe(ck__binder *b, const mla_config *m, const char *layer, mla_mlp_weights *experts,
                         mla_moe_weights *w) {
    const int64_t D = m->hidden_size, E = m->n_routed_experts, inter = m->moe_intermediate_size,
                  n = E + m->zero_expert_num;
    const ck__names *names = ck__names_of(b->plan);
    const int longcat = (b->plan->family->has & CK__SHORTCUT) != 0;
    char name[128];
    snprintf(name, sizeof name, "%s.%s.weight", names->ffn, longcat ? "router.classifier" : "gate");
    w->router = ck__bind(b, layer, name, 2, 1, n, D);
    w->router_bias = ck__bind_router_bias(b, m, layer);
    w->experts = experts;
    if (ck__find(b, layer, ck__fused, "")) {
        const ck__stack gate_up = ck__bind_stack(b, layer, ck__fused, E, 2 * inter, D);
        const ck__stack down = ck__bind_stack(b, layer, "mlp.experts.down_proj", E, D, inter);
        for (int64_t e = 0; e < E && !b->rc; e++) {
            experts[e].gate.weight = ck__of_stack(&gate_up, e, 0, inter);
            experts[e].up.weight = ck__of_stack(&gate_up, e, inter, inter);
            experts[e].down.weight = ck__of_stack(&down, e, 0, D);
        }
    } else
        for (int e = 0; e < m->n_routed_experts && !b->rc; e++) {
            snprintf(name, sizeof name, "%s%s.experts.%d.", layer, names->ffn, e);
            experts[e] = ck__bind_mlp(b, name, names, inter, D);
        }
    snprintf(name, sizeof name, "%s%s.shared_experts.", layer, names->ffn);
    if (m->n_shared_experts)
        w->shared = ck__bind_mlp(b, name, ck__plain_names(b->plan), m->n_shared_experts * inter, D);
}

/* What names of a layer's dense FFN begin with: some files have it where experts would be. */
static const char *ck__dense_name(const ck__binder *b, const char *layer) {
    const ck__names *names = ck__names_of(b->plan);
    char name[96];
    snprintf(name, sizeof name, "%s.gate_proj", names->ffn);
    return ck__find(b, layer, name, ".weight") ? names->ffn : names->dense;
}

/* n maps of m streams. */
static mla_hc_weights ck__bind_hc(ck__binder *b, const mla_config *m, const char *prefix, const char *name, int n) {
    const int64_t streams = m->hc_mult;
    mla_hc_weights w;
    char full[96];
    memset(&w, 0, sizeof w);
    if (streams < 2) return w;
    snprintf(full, sizeof full, "%s_fn", name);
    w.fn = ck__bind(b, prefix, full, 2, 1, n * streams, streams * m->hidden_size);
    snprintf(full, sizeof full, "%s_base", name);
    w.base = ck__bind(b, prefix, full, 1, 1, 1, n * streams);
    snprintf(full, sizeof full, "%s_scale", name);
    w.scale = ck__bind(b, prefix, full, 1, 1, 1, n);
    return w;
}

static void ck__bind_layer(ck__binder *b, const checkpoint *c, int i, mla_mlp_weights *experts, mla_layer_weights *w) {
    const mla_config *m = &c->config;
    const int twin = (b->plan->family->has & CK__SHORTCUT) != 0, moe = ck__is_moe(m, b->plan, i);
    const char *which = !twin ? "" : i % 2 ? ".1" : ".0";
    char layer[64], name[96];
    snprintf(layer, sizeof layer, "model.layers.%d.", ck__in_file(b->plan, i));
    w->attn_hc = ck__bind_hc(b, m, layer, "hc_pre.hc_attn_layer.hc", 2);
    w->ffn_hc = ck__bind_hc(b, m, layer, "hc_pre.hc_mlp_layer.hc", 2);
    snprintf(name, sizeof name, "input_layernorm%s", which);
    w->attn_norm = ck__bind_gated_norm(b, layer, name, m->hidden_size, m->norm_gate_rank);
    snprintf(name, sizeof name, "%s%s%s.", layer, b->plan->family->has & CK__BAILING ? "attention" : "self_attn",
             which);
    if (c->recurrent && i < m->num_hidden_layers && c->recurrent[i]) ck__bind_kda(b, m, name, &w->kda);
    else ck__bind_attention(b, m, name, &w->attn);
    if (ck__has_indexer(c, b->plan, i)) ck__bind_indexer(b, m, name, &w->attn.indexer);
    snprintf(name, sizeof name, "%s_layernorm%s", b->plan->sandwich ? "pre_mlp" : "post_attention", which);
    w->ffn_norm = ck__bind_gated_norm(b, layer, name, m->hidden_size, moe ? m->norm_gate_rank : 0);
    if (b->plan->sandwich) w->attn_out_norm = ck__bind_norm(b, layer, "post_attention_layernorm", m->hidden_size);
    if (moe) ck__bind_moe(b, m, layer, experts, &w->moe);
    if (b->plan->sandwich || (moe && b->plan->family->has & CK__FFN_OUT_NORM))
        w->ffn_out_norm = ck__bind_norm(b, layer, "post_mlp_layernorm", m->hidden_size);
    snprintf(name, sizeof name, "%s%s%s%s.", layer, ck__dense_name(b, layer), twin ? "s" : "", which);
    if (twin || !moe) w->mlp = ck__bind_mlp(b, name, ck__plain_names(b->plan), m->intermediate_size, m->hidden_size);
}

/* An embedding or head of the layer's own: absent without, or if it repeats the model's. */
static mla_tensor ck__bind_own(ck__binder *b, const mla_config *m, const char *prefix, const char *name,
                               const mla_tensor *models) {
    mla_tensor t;
    memset(&t, 0, sizeof t);
    const ck__entry *e = b->rc ? NULL : ck__find(b, prefix, name, "");
    if (e) t = ck__bind(b, prefix, name, 2, 1, m->vocab_size, m->hidden_size);
    if (t.data && t.dtype == models->dtype && !memcmp(t.data, models->data, e->tensor->bytes)) memset(&t, 0, sizeof t);
    return t;
}

static void ck__bind_mtp(ck__binder *b, const mla_config *m, const mla_weights *model, int depth, mla_mtp_weights *w) {
    const int64_t D = m->hidden_size;
    char layer[64];
    snprintf(layer, sizeof layer, "model.layers.%d.", m->num_hidden_layers + depth);
    w->enorm = ck__bind_norm(b, layer, "enorm", D);
    w->hnorm = ck__bind_norm(b, layer, "hnorm", D);
    w->eh_proj = ck__bind_linear(b, layer, "eh_proj", D, 2 * D, 0);
    w->norm = ck__bind_norm(b, layer, "shared_head.norm", D);
    w->embed = ck__bind_own(b, m, layer, "embed_tokens.weight", &model->embed);
    w->head = ck__bind_own(b, m, layer, "shared_head.head.weight", model->head.data ? &model->head : &model->embed);
}

/* The number after part in name, -1 without. */
static int ck__number_after(const char *name, const char *part) {
    const char *at = strstr(name, part);
    const size_t digits = at ? strspn(at + strlen(part), "0123456789") : 0;
    return digits && digits <= 9 && at[strlen(part) + digits] == '.' ? (int)strtol(at + strlen(part), NULL, 10) : -1;
}

/* Is it of this model, and not of one around it? *rest is then its name without what the plan puts before "layers" or
   "lm_head". */
static int ck__is_ours(const ck__plan *plan, const char *name, const char **rest) {
    const size_t body = strlen(plan->body), head = strlen(plan->head);
    *rest = name + body;
    if (!strncmp(name, plan->body, body)) return 1;
    *rest = name + head;
    return !strncmp(name, plan->head, head) && !strncmp(name + head, "lm_head.", 8);
}

/* Scales of activations and of a cache, which are not rounded here. */
static int ck__is_activation_scale(const char *name) {
    static const char *const ends[] = {".input_scale", ".input_global_scale", "activation_scale",
                                       ".qscale_act",  ".output_scale",       ".k_scale",
                                       ".v_scale"};
    const size_t n = strlen(name);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (n >= strlen(ends[i]) && !strcmp(name + n - strlen(ends[i]), ends[i])) return 1;
    return 0;
}

/* Tensors that may be there and are not used: rope tables of old transformers, scales of activations, weights of
   experts that have none, which transformers 5 writes all the same, and layers of multi-token prediction that are not
   wanted, which stand behind the last one and have an eh_proj (without it, num_hidden_layers is wrong), or under
   mtp. */
static int ck__is_extra(const ck__table *t, const ck__plan *plan, const char *name, const mla_config *c) {
    static const char rope[] = "rotary_emb.inv_freq", layers[] = "layers.";
    const size_t n = strlen(name), k = sizeof rope - 1;
    const char *rest;
    const int ours = ck__is_ours(plan, name, &rest), in_layer = ours && !strncmp(rest, layers, sizeof layers - 1);
    const int layer = in_layer ? ck__number_after(rest, layers) : -1, expert = ck__number_after(name, ".mlp.experts.");
    char eh_proj[96];
    if (n >= k && !strcmp(name + n - k, rope)) return 1;
    if (plan->n_schemes && ck__is_activation_scale(name)) return 1;
    if (ours && plan->family->has & CK__SHORTCUT && !strncmp(rest, "mtp.", 4)) return 1;
    if (layer < 0) return 0;
    if (layer < ck__in_file(plan, c->num_hidden_layers + c->num_nextn_predict_layers))
        return expert >= c->n_routed_experts && expert < c->n_routed_experts + c->zero_expert_num;
    snprintf(eh_proj, sizeof eh_proj, "%slayers.%d.eh_proj.weight", plan->body, layer);
    if (ck__lookup(t, eh_proj)) return 1;
    snprintf(eh_proj, sizeof eh_proj, "%slayers.%d.eh_proj.weight_packed", plan->body, layer);
    return ck__lookup(t, eh_proj) != NULL;
}

/* Room for layers and experts. Counts first: a hostile one must not make us allocate. */
static mla_result ck__make_layers(checkpoint *c, const ck__plan *plan, const ck__table *table, mla_error *err) {
    const mla_config *m = &c->config;
    const int64_t M = m->num_nextn_predict_layers, L = m->num_hidden_layers + M;
    const size_t n_extra = table->count + 1; /* no count of layers or experts that the files can satisfy reaches this */
    size_t n_experts = 0, n_apart = 0;
    char name[160], layer[64];
    if ((uint64_t)L >= n_extra)
        return ck__fail(err, MLA_ERR_WEIGHTS, "%s: only %zu tensors, but config.json: num_hidden_layers is %d%s",
                        table->source, table->count, m->num_hidden_layers,
                        M ? ", and num_nextn_predict_layers not 0" : "");
    for (int i = 0; i < L; i++) {
        if (!ck__is_moe(m, plan, i)) continue;
        snprintf(layer, sizeof layer, "model.layers.%d.", ck__in_file(plan, i));
        const ck__entry *fused = ck__lookup(table, ck__full(name, plan, layer, ck__fused));
        n_experts += (size_t)m->n_routed_experts;
        n_apart += fused ? 0 : (size_t)m->n_routed_experts;
        if (n_apart >= n_extra || (fused && fused->tensor->bytes < (size_t)m->n_routed_experts))
            return ck__fail(err, MLA_ERR_WEIGHTS, "%s: only %zu tensors, but config.json: n_routed_experts is %d",
                            table->source, table->count, m->n_routed_experts);
    }
    c->layers = (mla_layer_weights *)calloc((size_t)L, sizeof *c->layers);
    c->experts = (mla_mlp_weights *)calloc(n_experts + 1, sizeof *c->experts);
    c->mtp = (mla_mtp_weights *)calloc((size_t)M + 1, sizeof *c->mtp);
    c->ngram = (mla_ngram_weights *)calloc(plan->ngram_tables + 1, sizeof *c->ngram);
    return c->layers && c->experts && c->mtp && c->ngram ? MLA_OK : ck__no_memory(err, table->source);
}

static void ck__bind_ngram(ck__binder *b, const mla_config *m, int i, int64_t width, mla_ngram_weights *w) {
    const int64_t rows = (int64_t)b->plan->ngram_ratio * m->vocab_size + 2 * (int64_t)i + 1;
    char name[64];
    snprintf(name, sizeof name, "embedders.%d.weight", i);
    w->table = ck__bind(b, "model.ngram_embeddings.", name, 2, 1, rows, width);
    snprintf(name, sizeof name, "post_projs.%d", i);
    w->proj = ck__bind_linear(b, "model.ngram_embeddings.", name, m->hidden_size, width, 0);
}

static void ck__bind_all(checkpoint *c, ck__binder *b) {
    const mla_config *m = &c->config;
    size_t n_experts = 0;
    c->weights.layers = c->layers;
    c->weights.mtp = c->mtp;
    c->weights.embed = ck__bind(b, "", ck__embed_name(b->plan), 2, 1, m->vocab_size, m->hidden_size);
    c->weights.ngram = c->ngram;
    for (size_t i = 0; i < b->plan->ngram_tables && !b->rc; i++)
        ck__bind_ngram(b, m, (int)i, (int64_t)m->hidden_size / (int64_t)b->plan->ngram_tables, &c->ngram[i]);
    c->weights.norm = ck__bind_norm(b, "", "model.norm", m->hidden_size);
    c->weights.hc_head = ck__bind_hc(b, m, "", "model.hc_pre.hc_head.hc_head", 1);
    if (!b->plan->tied) c->weights.head = ck__bind_matrix(b, "", "lm_head", m->vocab_size, m->hidden_size);
    for (int i = 0; i < m->num_hidden_layers + m->num_nextn_predict_layers && !b->rc; i++) {
        ck__bind_layer(b, c, i, c->experts + n_experts, &c->layers[i]);
        if (ck__is_moe(m, b->plan, i)) n_experts += (size_t)m->n_routed_experts;
    }
    for (int i = 0; i < m->num_nextn_predict_layers && !b->rc; i++) ck__bind_mtp(b, m, &c->weights, i, &c->mtp[i]);
}

/* A tied model may carry its head all the same, if it really is the embedding. */
static mla_result ck__check_tied(const ck__plan *plan, const ck__table *table, mla_error *err) {
    char name[160];
    ck__entry *head = plan->tied ? ck__lookup(table, ck__full(name, plan, "", "lm_head.weight")) : NULL;
    if (!head) return MLA_OK;
    const st_tensor *embed = ck__lookup(table, ck__full(name, plan, "", ck__embed_name(plan)))->tensor;
    const st_tensor *h = head->tensor;
    if (strcmp(h->dtype, embed->dtype) || h->bytes != embed->bytes || memcmp(h->data, embed->data, h->bytes))
        return ck__fail(err, MLA_ERR_WEIGHTS,
                        "%s: tensor \"%.99s\" differs from the embedding, but config.json: tie_word_embeddings is true",
                        head->file->name, h->name);
    head->used = 1;
    return MLA_OK;
}

static mla_result ck__bind_model(checkpoint *c, const ck__plan *plan, const ck__table *table, mla_error *err) {
    ck__binder binder, *b = &binder;
    const char *rest;
    mla_result rc = ck__make_layers(c, plan, table, err);
    memset(b, 0, sizeof *b);
    b->table = table;
    b->plan = plan;
    b->err = err;
    if (rc) return rc;
    ck__bind_all(c, b);
    if (!b->rc && b->used) { /* again, now that it is known how much memory is needed */
        c->repacked_bytes = b->used;
        c->repacked = malloc(b->used + 63);
        if (!c->repacked) return ck__no_memory(err, table->source);
        b->memory = (unsigned char *)c->repacked + (64 - (uintptr_t)c->repacked % 64) % 64;
        b->used = 0;
        ck__bind_all(c, b);
    }
    if (b->rc) return b->rc;
    if (plan->n_schemes && !b->n_quantized)
        return ck__fail(err, MLA_ERR_WEIGHTS, "%s: nothing is %s, but config.json has a quantization_config",
                        table->source, ck__kind_names[plan->schemes[0].kind]);
    rc = ck__check_tied(plan, table, err);
    for (size_t i = 0; i < table->count && !rc; i++) {
        const ck__entry *e = &table->entries[i];
        if (e->used) continue;
        if (plan->nested && !ck__is_ours(plan, e->tensor->name, &rest)) {
            c->n_others++, c->other_bytes += (double)e->tensor->bytes;
        } else if (!ck__is_extra(table, plan, e->tensor->name, &c->config))
            rc = ck__fail(err, MLA_ERR_WEIGHTS,
                          "%s: tensor \"%.99s\" is unexpected: config.json does not account for it", e->file->name,
                          e->tensor->name);
    }
    return rc;
}

/* Where the tensors of a part are. */
static void ck__find_roots(ck__plan *plan, const ck__table *table) {
    static const char *const ends[] = {"lm_head.weight", "lm_head.weight_packed"};
    char name[160];
    plan->body = ck__bodies[0], plan->head = ck__heads[0];
    for (size_t i = 0; i < sizeof ck__bodies / sizeof *ck__bodies && plan->nested; i++) {
        snprintf(name, sizeof name, "%s%s", ck__bodies[i], ck__embed_name(plan) + strlen("model."));
        if (ck__lookup(table, name)) plan->body = ck__bodies[i];
    }
    for (size_t i = 0; i < sizeof ck__heads / sizeof *ck__heads && plan->nested; i++)
        for (size_t k = 0; k < 2; k++) {
            snprintf(name, sizeof name, "%s%s", ck__heads[i], ends[k]);
            if (ck__lookup(table, name)) plan->head = ck__heads[i];
        }
}

/* ---- >>open ------------------------------------------------------------------------------------------------------ */

#ifndef CHECKPOINT_NO_GGUF
#include "gguf.h"
#endif

static mla_result ck__open(checkpoint *c, const char *dir, int mtp, ck__table *table, mla_error *err) {
    ck__plan plan;
    json_value *json = NULL;
    int missing = 0;
    mla_result rc = ck__read_json(&json, dir, "config.json", 0, MLA_ERR_CONFIG, NULL, err);
    memset(&plan, 0, sizeof plan);
    plan.mtp = mtp;
    if (!rc) rc = ck__read_config(c, &plan, json, err);
    json_free(json);
    if (rc) return rc;

    rc = ck__read_json(&json, dir, "generation_config.json", 0, MLA_ERR_CONFIG, &missing, err);
    if (!rc) {
        ck__reader r = ck__read("generation_config.json", json, err);
        ck__read_eos(c, &r);
        json_free(json);
        rc = r.rc;
    } else if (missing) rc = MLA_OK;

    if (!rc && !plan.n_schemes) {
        rc = ck__read_json(&json, dir, "hf_quant_config.json", 0, MLA_ERR_CONFIG, &missing, err);
        if (!rc) rc = ck__read_hf_quant(&plan, json, err);
        else if (missing) rc = MLA_OK;
        json_free(json);
    }
    if (!rc) rc = ck__open_files(c, dir, table, err);
    if (!rc) ck__find_roots(&plan, table);
    if (!rc) rc = ck__bind_model(c, &plan, table, err);
    return rc;
}

static mla_result ck__open_path(checkpoint *c, const char *path, const checkpoint_options *how, mla_error *err) {
    ck__table table;
#ifndef CHECKPOINT_NO_GGUF
    char *file;
    const mla_result located = gguf_locate(&file, path, err);
    if (located) return located;
    if (file) {
        const mla_result opened = gguf__open_model(c, file, how, err);
        free(file);
        return opened;
    }
#endif
    memset(&table, 0, sizeof table);
    const mla_result rc = ck__open(c, path, how->mtp, &table, err);
    free(table.entries);
    return rc;
}

mla_result checkpoint_open_with(checkpoint **out, const char *path, const checkpoint_options *how, mla_error *err) {
    checkpoint_options defaults;
    mla_error scratch; /* a file that may be missing leaves a message that nobody shall see */
    memset(&defaults, 0, sizeof defaults);
    how = how ? how : &defaults;
    if (out) *out = NULL;
    if (!out || !path) return ck__fail(err, MLA_ERR_ARGUMENT, "checkpoint_open: out or path is NULL");
    if (!*path) return ck__fail(err, MLA_ERR_ARGUMENT, "checkpoint_open: the path is empty");
    if ((unsigned)how->groups >= CHECKPOINT_GROUPS_COUNT)
        return ck__fail(err, MLA_ERR_ARGUMENT, "checkpoint_options.groups: %d is none of them", (int)how->groups);
    checkpoint *c = (checkpoint *)calloc(1, sizeof *c);
    if (!c) return ck__no_memory(err, "checkpoint_open");
    const mla_result rc = ck__open_path(c, path, how, &scratch);
    if (rc && err) *err = scratch;
    if (rc) checkpoint_close(c);
    else *out = c;
    return rc;
}

mla_result checkpoint_open(checkpoint **out, const char *path, mla_error *err) {
    return checkpoint_open_with(out, path, NULL, err);
}

void checkpoint_close(checkpoint *c) {
    if (!c) return;
#ifndef CHECKPOINT_NO_GGUF
    gguf_close(c->gguf);
#endif
    for (size_t i = 0; i < c->n_files; i++) st_close(c->files[i]);
    free(c->files);
    free(c->layers);
    free(c->experts);
    free(c->mtp);
    free(c->ngram);
    free(c->misspelt);
    free(c->unread);
    free(c->rope_factors);
    free(c->decays);
    free(c->indexers);
    free(c->recurrent);
    free(c->memory);
    free(c->repacked);
    free(c);
}

#endif /* CHECKPOINT_IMPLEMENTATION */
