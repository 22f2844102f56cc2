/* Where a network's layers stand: in which block, and of which kind they are. */
#include "models/network.h"

static bool block_name_ends(char c) /* of a block: LoRA files may have underscores */
{
    return c == '.' || c == '_';
}

/* The number in "down_blocks.12.", -1: none. */
static int block_number(const char *name, const sara_block_list *list)
{
    size_t length = strlen(list->name), digits;
    if (strncmp(name, list->name, length) != 0 || !block_name_ends(name[length]))
        return -1;
    if (list->count == 0)
        return 0;
    name += length + 1;
    digits = strspn(name, "0123456789");
    if (digits < 1 || digits > 2 || !block_name_ends(name[digits]) ||
        (digits == 2 && name[0] == '0'))
        return -1;
    int number = digits == 1 ? name[0] - '0' : (name[0] - '0') * 10 + name[1] - '0';
    return number < list->count ? number : -1;
}

int sara_block_place(const sara_block_list *list, const char *name, sara_name *label)
{
    int place = 0;
    for (; list && list->name; list++) {
        int number = block_number(name, list);
        *label = list->count ? sara_name_of("%s.%d", list->name, number)
                             : sara_name_of("%s", list->name);
        if (number >= 0)
            return place + number;
        place += list->count ? list->count : 1;
    }
    *label = sara_name_of("others");
    return place;
}

int sara_layer_kind_of(const sara_layer_kind *kinds, const char *name, const char **title)
{
    int kind = 0;
    for (; kinds && kinds->title; kinds++, kind++)
        if (strstr(name, kinds->part)) {
            *title = kinds->title;
            return kind;
        }
    *title = "others";
    return kind;
}
