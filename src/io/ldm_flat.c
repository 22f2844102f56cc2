/* Names of the averages of a U-Net's weights. The LDM repository keeps them in a module whose names
 * must not have dots (LitEma), so that it takes them out: input_blocks.1.0.in_layers.0.weight
 * becomes input_blocks10in_layers0weight. The words of a U-Net's names tell where they were. */
#include "io/io.h"

#define MOST_DIGITS 4 /* of numbers in a row */

/* A word that begins like another stands before it. */
static const char *const words[] = {"input_blocks",
                                    "output_blocks",
                                    "middle_block",
                                    "time_embed",
                                    "label_emb",
                                    "transformer_blocks",
                                    "skip_connection",
                                    "emb_layers",
                                    "in_layers",
                                    "out_layers",
                                    "proj_in",
                                    "proj_out",
                                    "proj",
                                    "norm1",
                                    "norm2",
                                    "norm3",
                                    "norm",
                                    "attn1",
                                    "attn2",
                                    "to_out",
                                    "to_q",
                                    "to_k",
                                    "to_v",
                                    "ff",
                                    "net",
                                    "conv",
                                    "op",
                                    "out",
                                    "weight",
                                    "bias"};

sara_name sara_ldm_flatten(const char *name)
{
    sara_name flat = {""};
    size_t used = 0;
    for (; *name && used + 1 < sizeof(flat.text); name++)
        if (*name != '.')
            flat.text[used++] = *name;
    flat.text[used] = '\0';
    return flat;
}

static const char *next_word(const char *at)
{
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
        if (strncmp(at, words[i], strlen(words[i])) == 0)
            return words[i];
    return NULL;
}

/* Of these two numbers follow, the second of one digit: of a block, and what is in the block. */
static bool has_two_numbers(const char *word)
{
    static const char *const blocks[] = {"input_blocks", "output_blocks", "label_emb"};
    for (size_t i = 0; i < sizeof(blocks) / sizeof(*blocks); i++)
        if (strcmp(word, blocks[i]) == 0)
            return true;
    return false;
}

static bool take_numbers(sara_name *out, const char *word, const char **at)
{
    size_t digits = strspn(*at, "0123456789");
    bool two = has_two_numbers(word);
    int first = (int)digits - two;
    if (digits > MOST_DIGITS || (two && digits < 2))
        return false;
    if (first > 0)
        *out = sara_name_of("%s.%.*s", out->text, first, *at);
    if (two)
        *out = sara_name_of("%s.%c", out->text, (*at)[first]);
    *at += digits;
    return true;
}

bool sara_ldm_unflatten(sara_name *out, const char *flat)
{
    *out = sara_name_of("%s", "");
    for (const char *at = flat; *at;) {
        const char *word = next_word(at);
        if (!word)
            return false;
        *out = sara_name_of("%s%s%s", out->text, *out->text ? "." : "", word);
        at += strlen(word);
        if (!take_numbers(out, word, &at))
            return false;
    }
    return *flat != '\0' && strcmp(sara_ldm_flatten(out->text).text, flat) == 0;
}
