/* What the parts of reading a dataset folder share; private to the io layer. */
#ifndef SARA_DATASET_SCAN_H
#define SARA_DATASET_SCAN_H

#include "io/io.h"

#include <sys/types.h>

#define SARA_NOTED_NAMES 3

/* Things of one kind that lie in the folder: how many, and the names of the first. */
typedef struct sara_dataset_note {
    const char *label;
    const char *names[SARA_NOTED_NAMES];
    size_t count;
} sara_dataset_note;
typedef struct sara_dataset_notes {
    sara_dataset_note *list;
    size_t count, capacity, total;
} sara_dataset_notes;

/* A folder in the walk, or one that a row's name leads through. */
typedef struct sara_dataset_folder {
    const struct sara_dataset_folder *parent;
    const char *path;
    const char *name;    /* from the dataset folder, which has "" itself */
    const char *caption; /* what N_name says, of this folder or one that it is in; NULL */
    int64_t repeats;
    dev_t device;
    ino_t inode;
    char **names; /* of what lies in it, in the order of their bytes */
    size_t count;
    bool *is_folder;
    bool *used;       /* an image, or what was read for one */
    bool is_numbered; /* N_name, or in such a folder */
    bool is_listed;   /* metadata, its own or that of a folder above, says which images count */
    char **keys;      /* the same names normalised, made when first asked for */
    size_t *order;    /* the keys' order */
} sara_dataset_folder;

typedef struct sara_dataset_scan_state {
    sara_context *ctx;
    const sara_dataset_options *options;
    const char *column;          /* never NULL */
    char *extension;             /* with its dot; NULL: any of those known */
    sara_dataset_item *items;
    size_t count, capacity;
    sara_arena arena; /* what the items and notes point to */
    /* Passed over: folders; unused: files; left_out: images beside folders with repeats; repeats,
     * captions: what was read. */
    sara_dataset_notes passed, unused, left_out, repeats, captions;
    size_t folders;     /* opened so far */
    const char **named; /* what rows of metadata name, from the dataset folder, sorted */
    size_t named_count, named_capacity;
} sara_dataset_scan_state;

typedef enum sara_file_kind {
    SARA_FILE_OTHER,
    SARA_FILE_IMAGE,
    SARA_FILE_UNREADABLE_IMAGE, /* an image by its extension, of a kind that is not read */
    SARA_FILE_CAPTION
} sara_file_kind;
/* kohya's N_name: N, and the name in *name; -1 for another name of a folder. */
int64_t sara_dataset_parse_repeats(const char **name, const char *folder);
sara_file_kind sara_file_kind_of(const char *name); /* by extension; hidden files are OTHER */

/* ------------------------------------------------------------------------------------- folders */

/* Lists the folder at parent's path + name, name NULL: path itself. A link back to a folder that
 * it lies in is SARA_ERROR_INPUT. sara_dataset_folder_close(), also after an error. */
SARA_NODISCARD sara_status sara_dataset_folder_open(sara_dataset_scan_state *scan,
                                                    sara_dataset_folder *out,
                                                    const sara_dataset_folder *parent,
                                                    const char *name);
void sara_dataset_folder_close(sara_context *ctx, sara_dataset_folder *folder);
/* The file of that name, else the one whose name is the same in Unicode's NFC. *out: its index,
 * SIZE_MAX for none. Two that are the same, neither of them exactly, are SARA_ERROR_INPUT. */
SARA_NODISCARD sara_status sara_dataset_folder_find(sara_context *ctx, size_t *out,
                                                    sara_dataset_folder *folder, const char *name);
/* The file of the image's name with this extension, exactly, else capitals of the extension apart.
 * *out: its index, SIZE_MAX for none. Several, none of them exactly, are SARA_ERROR_INPUT. */
SARA_NODISCARD sara_status sara_dataset_folder_find_beside(sara_context *ctx, size_t *out,
                                                           sara_dataset_folder *folder,
                                                           const char *image,
                                                           const char *extension);
/* The name of an image, or else of a folder, nearest to what was sought: the fewest letters differ,
 * capitals apart. NULL: nothing of the kind lies there. One of the folder's names. */
SARA_NODISCARD sara_status sara_dataset_folder_nearest(sara_context *ctx, const char **out,
                                                       sara_dataset_folder *folder,
                                                       const char *name, bool images);
/* folder's name/name in the arena. */
SARA_NODISCARD sara_status sara_dataset_below(sara_dataset_scan_state *scan, const char **out,
                                              const sara_dataset_folder *folder, const char *name);
/* SARA_ERROR_INPUT for what is not a regular file or a link to one. `where` begins the line. */
SARA_NODISCARD sara_status sara_dataset_check_file(sara_context *ctx, const char *where,
                                                   const char *path, const char *name);

/* --------------------------------------------------------------------------------------- items */

/* SARA_OK where options->refused has heard of the error, which was the file's at path; else
 * status. */
SARA_NODISCARD sara_status sara_dataset_hear(const sara_dataset_scan_state *scan, const char *path,
                                             sara_status status);
/* name: from the folder; caption NULL: of an image that is refused. Copies all strings. */
SARA_NODISCARD sara_status sara_dataset_add(sara_dataset_scan_state *scan,
                                            const sara_dataset_folder *folder, const char *name,
                                            const char *caption);
/* The caption in the file beside the image, or what the folder's name says; it is an error if
 * there is neither. */
SARA_NODISCARD sara_status sara_dataset_add_captioned(sara_dataset_scan_state *scan,
                                                      sara_dataset_folder *folder, size_t image);
/* Adds the rows of metadata.jsonl or metadata.csv in the folder. */
SARA_NODISCARD sara_status sara_dataset_read_metadata(sara_dataset_scan_state *scan,
                                                      sara_dataset_folder *folder, size_t file);
/* Whether a row names the file. */
bool sara_dataset_is_named(const sara_dataset_scan_state *scan, const char *below);
SARA_NODISCARD sara_status sara_dataset_walk(sara_dataset_scan_state *scan);

/* Valid UTF-8 without NUL, or SARA_ERROR_INPUT naming the first byte that is not. */
SARA_NODISCARD sara_status sara_dataset_check_text(sara_context *ctx, const char *path,
                                                   const char *text, size_t size);

/* --------------------------------------------------------------------------------------- notes */

/* One more of the label's kind; both strings are copied. */
SARA_NODISCARD sara_status sara_dataset_note_add(sara_dataset_scan_state *scan,
                                                 sara_dataset_notes *notes, const char *label,
                                                 const char *name);
/* "3 .npz (a.npz, b.npz, c.npz), 1 ..."; sara_free(). */
SARA_NODISCARD sara_status sara_dataset_notes_text(sara_context *ctx, char **out,
                                                   const sara_dataset_notes *notes);
/* What was passed over, left unused and so on, one line each. */
SARA_NODISCARD sara_status sara_dataset_tell_notes(sara_dataset_scan_state *scan);

/* ----------------------------------------------------------------------------------------- csv */

/* Comma-separated values as RFC 4180 has them and pandas reads them. */
typedef struct sara_csv {
    const char *at, *end;
    size_t line;      /* of the row read last, from 1 */
    size_t next_line; /* where the text goes on */
    sara_buffer text; /* the row's fields, each ended by NUL */
    size_t *fields;   /* where they begin in text */
    size_t count, field_capacity;
} sara_csv;
/* The next row that is not blank; *more is false at the end. A quote without end is an error. */
SARA_NODISCARD sara_status sara_csv_next(sara_context *ctx, bool *more, sara_csv *csv,
                                         const char *path);
void sara_csv_free(sara_context *ctx, sara_csv *csv);

#endif
