/* The safetensors reader's inside; not for other layers.
 *
 *     offset 0   header length N, little-endian u64
 *            8   header, N bytes of JSON: { "__metadata__": {strings}, name: {dtype, shape,
 *                data_offsets [begin, end]}, ... }, trailing spaces allowed
 *        8 + N   data; the tensors cover it without overlap, hole or rest
 */
#ifndef SARA_IO_SAFETENSORS_H
#define SARA_IO_SAFETENSORS_H

#include "io/file.h"

#include <sys/stat.h>

#define SARA_SAFETENSORS_PREAMBLE       8
#define SARA_SAFETENSORS_LONGEST_HEADER 100000000 /* as in the safetensors library */

struct sara_safetensors {
    sara_context *ctx;
    char *path;
    int fd;
    struct stat opened;      /* the file as it was then */
    uint64_t size;           /* of the file */
    uint64_t data;           /* where the data begins */
    sara_arena arena;        /* names and metadata */
    sara_tensor_info *infos; /* ascending by name's bytes */
    size_t count, capacity;
    sara_metadata *metadata; /* ascending by key's bytes */
    size_t metadata_count, metadata_capacity;
};

/* Reads the header into infos and metadata, in its own order; file->data is set. */
SARA_NODISCARD sara_status sara_safetensors_parse(sara_safetensors *file);
/* Sorts both and checks what concerns more than one tensor: names and the data's layout. */
SARA_NODISCARD sara_status sara_safetensors_arrange(sara_safetensors *file);

/* JSON text in a window over the file, so that memory does not grow with the header. */
typedef struct sara_scan {
    sara_context *ctx;
    const char *path;
    const char *tensor, *field; /* where errors happen; NULL: none */
    int fd;
    uint64_t next, limit; /* file offsets: after the window, after the text */
    unsigned char *window;
    size_t at, filled;
    sara_buffer text;   /* the last string */
    sara_status status; /* of a window that could not be read */
} sara_scan;

SARA_NODISCARD sara_status sara_scan_open(sara_scan *scan, const sara_safetensors *file);
void sara_scan_close(sara_scan *scan);
/* "PATH: byte N: tensor T: field: ...", N being the next byte's offset. */
SARA_NODISCARD sara_status sara_scan_fail(sara_scan *scan, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The next byte after white space must be `wanted`. */
SARA_NODISCARD sara_status sara_scan_expect(sara_scan *scan, char wanted);
/* Whether `null` comes next, which is taken then. */
SARA_NODISCARD sara_status sara_scan_null(sara_scan *scan, bool *is_null);
/* In a list or object that ends with `close`: whether another member follows. The comma or the
 * end is consumed. */
SARA_NODISCARD sara_status sara_scan_more(sara_scan *scan, bool *more, bool first, char close);
/* A string without NUL of at most `longest` bytes, into text. */
SARA_NODISCARD sara_status sara_scan_string(sara_scan *scan, size_t longest);
SARA_NODISCARD sara_status sara_scan_integer(sara_scan *scan, uint64_t *out);
/* Nothing but white space is left. */
SARA_NODISCARD sara_status sara_scan_end(sara_scan *scan);

#endif
