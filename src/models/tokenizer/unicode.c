/* Character properties as the Unicode tables of the tokenizers library (0.23) have them: classes
 * of Unicode 16, lower case of Unicode 17, normalisation of Unicode 9. utf8proc's own tables
 * depend on its version, so what differs between 15 and 17 is listed here. */
#include "models/tokenizer/tokenizer.h"

#include <utf8proc.h>

typedef struct code_range {
    int32_t first, last;
} code_range;

#define L SARA_CHAR_LETTER
#define N SARA_CHAR_NUMBER
#define O SARA_CHAR_OTHER
static const struct {
    int32_t first, last;
    sara_char_class class;
} classes[] = {
    {0x088F, 0x088F, O},   {0x0C5C, 0x0C5C, O},   {0x0CDC, 0x0CDC, O},   {0x1C89, 0x1C8A, L},
    {0xA7CB, 0xA7CD, L},   {0xA7CE, 0xA7CF, O},   {0xA7D2, 0xA7D2, O},   {0xA7D4, 0xA7D4, O},
    {0xA7DA, 0xA7DC, L},   {0xA7F1, 0xA7F1, O},   {0x105C0, 0x105F3, L}, {0x10940, 0x10959, O},
    {0x10D40, 0x10D49, N}, {0x10D4A, 0x10D65, L}, {0x10D6F, 0x10D85, L}, {0x10EC2, 0x10EC4, L},
    {0x10EC5, 0x10EC7, O}, {0x11380, 0x11389, L}, {0x1138B, 0x1138B, L}, {0x1138E, 0x1138E, L},
    {0x11390, 0x113B5, L}, {0x113B7, 0x113B7, L}, {0x113D1, 0x113D1, L}, {0x113D3, 0x113D3, L},
    {0x116D0, 0x116E3, N}, {0x11BC0, 0x11BE0, L}, {0x11BF0, 0x11BF9, N}, {0x11DB0, 0x11DDB, O},
    {0x11DE0, 0x11DE9, O}, {0x13460, 0x143FA, L}, {0x16100, 0x1611D, L}, {0x16130, 0x16139, N},
    {0x16D40, 0x16D6C, L}, {0x16D70, 0x16D79, N}, {0x16EA0, 0x16EB8, O}, {0x16EBB, 0x16ED3, O},
    {0x16FF2, 0x16FF6, O}, {0x187F8, 0x187FF, O}, {0x18CFF, 0x18CFF, L}, {0x18D09, 0x18D1E, O},
    {0x18D80, 0x18DF2, O}, {0x1CCF0, 0x1CCF9, N}, {0x1E5D0, 0x1E5ED, L}, {0x1E5F0, 0x1E5F0, L},
    {0x1E5F1, 0x1E5FA, N}, {0x1E6C0, 0x1E6DE, O}, {0x1E6E0, 0x1E6E2, O}, {0x1E6E4, 0x1E6E5, O},
    {0x1E6E7, 0x1E6ED, O}, {0x1E6F0, 0x1E6F4, O}, {0x1E6FE, 0x1E6FF, O}, {0x2B73A, 0x2B73F, O},
    {0x2CEA2, 0x2CEAD, O}, {0x2EBF0, 0x2EE5D, L}, {0x323B0, 0x33479, O},
};
#undef L
#undef N
#undef O
#define CLASS_COUNT (sizeof(classes) / sizeof(classes[0]))

/* What \w holds beside letters, marks, decimal and letter numbers and connectors; marks that
 * Unicode 16 added. */
static const code_range words[] = {
    {0x0897, 0x0897},   {0x200C, 0x200D},   {0x24B6, 0x24E9},   {0x10D69, 0x10D6D},
    {0x10EFC, 0x10EFC}, {0x113B8, 0x113C0}, {0x113C2, 0x113C2}, {0x113C5, 0x113C5},
    {0x113C7, 0x113CA}, {0x113CC, 0x113D0}, {0x113D2, 0x113D2}, {0x113E1, 0x113E2},
    {0x11F5A, 0x11F5A}, {0x1611E, 0x1612F}, {0x1E5EE, 0x1E5EF}, {0x1F130, 0x1F149},
    {0x1F150, 0x1F169}, {0x1F170, 0x1F189},
};

static const struct {
    int32_t first, last, distance;
} lower[] = {
    {0x1C89, 0x1C89, 1},    {0xA7CB, 0xA7CB, -42343}, {0xA7CC, 0xA7CC, 1}, {0xA7CE, 0xA7CE, 1},
    {0xA7D2, 0xA7D2, 1},    {0xA7D4, 0xA7D4, 1},      {0xA7DA, 0xA7DA, 1}, {0xA7DC, 0xA7DC, -42561},
    {0x10D50, 0x10D65, 32}, {0x16EA0, 0x16EB8, 27},
};

/* Characters newer than Unicode 9 that later versions reorder, compose or decompose. Under the
 * tables of Unicode 9 they stand for themselves and separate what is around them. So does U+11A7,
 * the vowel before the first Hangul trailing consonant, which utf8proc 2.8 swallows. */
static const code_range isolated[] = {
    {0x07FD, 0x07FD},   {0x0897, 0x089F},   {0x08CA, 0x08D3},   {0x09FE, 0x09FE},
    {0x0C3C, 0x0C3C},   {0x0D3B, 0x0D3C},   {0x0EBA, 0x0EBA},   {0x11A7, 0x11A7},
    {0x1715, 0x1715},   {0x1ABF, 0x1ADD},   {0x1AE0, 0x1AEB},   {0x1DF6, 0x1DFA},
    {0xA82C, 0xA82C},   {0x105C9, 0x105C9}, {0x105D2, 0x105D2}, {0x105DA, 0x105DA},
    {0x105E4, 0x105E4}, {0x10D24, 0x10D27}, {0x10D69, 0x10D6D}, {0x10EAB, 0x10EAC},
    {0x10EFA, 0x10EFB}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x11382, 0x11385}, {0x1138B, 0x1138B},
    {0x1138E, 0x1138E}, {0x11390, 0x11391}, {0x113B8, 0x113B8}, {0x113BB, 0x113BB},
    {0x113C2, 0x113C2}, {0x113C5, 0x113C5}, {0x113C7, 0x113C9}, {0x113CE, 0x113D0},
    {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11935, 0x11935},
    {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0},
    {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42},
    {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x1611E, 0x16129},
    {0x1612F, 0x1612F}, {0x16D63, 0x16D63}, {0x16D67, 0x16D6A}, {0x16FF0, 0x16FF1},
    {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF}, {0x1E6E3, 0x1E6E3}, {0x1E6E6, 0x1E6E6},
    {0x1E6EE, 0x1E6EF}, {0x1E6F5, 0x1E6F5},
};

static bool in_ranges(const code_range *ranges, size_t count, int32_t code)
{
    size_t low = 0;
    while (count > 0) {
        size_t half = count / 2;
        if (code > ranges[low + half].last) {
            low += half + 1;
            count -= half + 1;
        } else if (code < ranges[low + half].first) {
            count = half;
        } else {
            return true;
        }
    }
    return false;
}

/* The same 25 characters in every version since Unicode 6.3. */
static bool is_space(int32_t code)
{
    return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
           code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

static bool listed_class(sara_char_class *out, int32_t code)
{
    for (size_t i = 0; i < CLASS_COUNT && code >= classes[i].first; i++)
        if (code <= classes[i].last) {
            *out = classes[i].class;
            return true;
        }
    return false;
}

sara_char_class sara_char_class_of(int32_t code)
{
    sara_char_class result;
    if (is_space(code))
        return SARA_CHAR_SPACE;
    if (listed_class(&result, code))
        return result;
    utf8proc_category_t category = utf8proc_category(code);
    if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO)
        return SARA_CHAR_LETTER;
    if (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO)
        return SARA_CHAR_NUMBER;
    return SARA_CHAR_OTHER;
}

bool sara_char_is_word(int32_t code)
{
    sara_char_class listed;
    if (in_ranges(words, sizeof(words) / sizeof(words[0]), code))
        return true;
    if (listed_class(&listed, code))
        return listed != SARA_CHAR_OTHER;
    utf8proc_category_t category = utf8proc_category(code);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) ||
           category == UTF8PROC_CATEGORY_PC;
}

int sara_char_lower(int32_t out[2], int32_t code)
{
    if (code == 0x130) { /* the one character whose lower case is two: i and a dot above */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    out[0] = utf8proc_tolower(code);
    for (size_t i = 0; i < sizeof(lower) / sizeof(lower[0]) && code >= lower[i].first; i++)
        if (code <= lower[i].last)
            out[0] = code + lower[i].distance;
    return 1;
}

bool sara_char_is_isolated(int32_t code)
{
    return in_ranges(isolated, sizeof(isolated) / sizeof(isolated[0]), code);
}
