#include "models/inception/parts.h"

#define BLOCK    SARA_FROM_BLOCK
#define PREVIOUS SARA_FROM_PREVIOUS
#define SAME     SARA_FROM_SAME

/* clang-format off */
static const sara_inception_row stem[] = {
    {"Conv2d_1a_3x3", 32, 3, 3, 2, false, false, BLOCK, false},
    {"Conv2d_2a_3x3", 32, 3, 3, 1, false, false, PREVIOUS, false},
    {"Conv2d_2b_3x3", 64, 3, 3, 1, true, false, PREVIOUS, false},
    {NULL, 0, 3, 3, 2, false, false, PREVIOUS, false},
    {"Conv2d_3b_1x1", 80, 1, 1, 1, false, false, PREVIOUS, false},
    {"Conv2d_4a_3x3", 192, 3, 3, 1, false, false, PREVIOUS, false},
    {NULL, 0, 3, 3, 2, false, false, PREVIOUS, true},
    {.kh = 0}};

static const sara_inception_row block_a[] = {
    {"branch1x1", 64, 1, 1, 1, false, false, BLOCK, true},
    {"branch5x5_1", 48, 1, 1, 1, false, false, BLOCK, false},
    {"branch5x5_2", 64, 5, 5, 1, true, false, PREVIOUS, true},
    {"branch3x3dbl_1", 64, 1, 1, 1, false, false, BLOCK, false},
    {"branch3x3dbl_2", 96, 3, 3, 1, true, false, PREVIOUS, false},
    {"branch3x3dbl_3", 96, 3, 3, 1, true, false, PREVIOUS, true},
    {NULL, 0, 3, 3, 1, true, true, BLOCK, false},
    {"branch_pool", 0, 1, 1, 1, false, false, PREVIOUS, true},
    {.kh = 0}};

static const sara_inception_row block_b[] = {
    {"branch3x3", 384, 3, 3, 2, false, false, BLOCK, true},
    {"branch3x3dbl_1", 64, 1, 1, 1, false, false, BLOCK, false},
    {"branch3x3dbl_2", 96, 3, 3, 1, true, false, PREVIOUS, false},
    {"branch3x3dbl_3", 96, 3, 3, 2, false, false, PREVIOUS, true},
    {NULL, 0, 3, 3, 2, false, false, BLOCK, true},
    {.kh = 0}};

static const sara_inception_row block_c[] = {
    {"branch1x1", 192, 1, 1, 1, false, false, BLOCK, true},
    {"branch7x7_1", 0, 1, 1, 1, false, false, BLOCK, false},
    {"branch7x7_2", 0, 1, 7, 1, true, false, PREVIOUS, false},
    {"branch7x7_3", 192, 7, 1, 1, true, false, PREVIOUS, true},
    {"branch7x7dbl_1", 0, 1, 1, 1, false, false, BLOCK, false},
    {"branch7x7dbl_2", 0, 7, 1, 1, true, false, PREVIOUS, false},
    {"branch7x7dbl_3", 0, 1, 7, 1, true, false, PREVIOUS, false},
    {"branch7x7dbl_4", 0, 7, 1, 1, true, false, PREVIOUS, false},
    {"branch7x7dbl_5", 192, 1, 7, 1, true, false, PREVIOUS, true},
    {NULL, 0, 3, 3, 1, true, true, BLOCK, false},
    {"branch_pool", 192, 1, 1, 1, false, false, PREVIOUS, true},
    {.kh = 0}};

static const sara_inception_row block_d[] = {
    {"branch3x3_1", 192, 1, 1, 1, false, false, BLOCK, false},
    {"branch3x3_2", 320, 3, 3, 2, false, false, PREVIOUS, true},
    {"branch7x7x3_1", 192, 1, 1, 1, false, false, BLOCK, false},
    {"branch7x7x3_2", 192, 1, 7, 1, true, false, PREVIOUS, false},
    {"branch7x7x3_3", 192, 7, 1, 1, true, false, PREVIOUS, false},
    {"branch7x7x3_4", 192, 3, 3, 2, false, false, PREVIOUS, true},
    {NULL, 0, 3, 3, 2, false, false, BLOCK, true},
    {.kh = 0}};

/* The two blocks of the end differ in what they pool: TensorFlow's network has the mean in the
 * first and the largest in the second. */
#define BLOCK_E(average)                                                                           \
    {"branch1x1", 320, 1, 1, 1, false, false, BLOCK, true},                                        \
    {"branch3x3_1", 384, 1, 1, 1, false, false, BLOCK, false},                                     \
    {"branch3x3_2a", 384, 1, 3, 1, true, false, PREVIOUS, true},                                   \
    {"branch3x3_2b", 384, 3, 1, 1, true, false, SAME, true},                                       \
    {"branch3x3dbl_1", 448, 1, 1, 1, false, false, BLOCK, false},                                  \
    {"branch3x3dbl_2", 384, 3, 3, 1, true, false, PREVIOUS, false},                                \
    {"branch3x3dbl_3a", 384, 1, 3, 1, true, false, PREVIOUS, true},                                \
    {"branch3x3dbl_3b", 384, 3, 1, 1, true, false, SAME, true},                                    \
    {NULL, 0, 3, 3, 1, true, average, BLOCK, false},                                               \
    {"branch_pool", 192, 1, 1, 1, false, false, PREVIOUS, true},                                   \
    {.kh = 0}
static const sara_inception_row block_e1[] = {BLOCK_E(true)};
static const sara_inception_row block_e2[] = {BLOCK_E(false)};

const sara_inception_place sara_inception_places[SARA_INCEPTION_BLOCKS] = {
    {NULL, stem, 0},
    {"Mixed_5b", block_a, 32}, {"Mixed_5c", block_a, 64}, {"Mixed_5d", block_a, 64},
    {"Mixed_6a", block_b, 0},
    {"Mixed_6b", block_c, 128}, {"Mixed_6c", block_c, 160}, {"Mixed_6d", block_c, 160},
    {"Mixed_6e", block_c, 192},
    {"Mixed_7a", block_d, 0}, {"Mixed_7b", block_e1, 0}, {"Mixed_7c", block_e2, 0}};
/* clang-format on */
