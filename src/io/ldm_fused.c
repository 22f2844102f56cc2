/* Where single files hold what diffusers' tensors do in another order: queries, keys and values in
 * one tensor, and the two halves of a modulation changed round. */
#include "io/io.h"

static const struct {
    sara_ldm_part part;
    const char *all, *thirds[3];
} fused[] = {
    {SARA_LDM_OPEN_CLIP, ".in_proj.", {".q_proj.", ".k_proj.", ".v_proj."}},
    {SARA_LDM_MMDIT, ".to_qkv.", {".to_q.", ".to_k.", ".to_v."}},
    {SARA_LDM_MMDIT, ".add_qkv_proj.", {".add_q_proj.", ".add_k_proj.", ".add_v_proj."}},
};
enum { FUSED = sizeof(fused) / sizeof(*fused) };

/* Where `part`, whose place in the name `at` is, is replaced. */
static sara_name replaced(const char *name, const char *at, const char *part, const char *by)
{
    return sara_name_of("%.*s%s%s", (int)(at - name), name, by, at + strlen(part));
}

bool sara_ldm_split(const sara_ldm_shape *shape, sara_name thirds[3], const char *name)
{
    for (int i = 0; i < FUSED; i++) {
        const char *at = fused[i].part == shape->part ? strstr(name, fused[i].all) : NULL;
        for (int k = 0; at && k < 3; k++)
            thirds[k] = replaced(name, at, fused[i].all, fused[i].thirds[k]);
        if (at)
            return true;
    }
    return false;
}

int sara_ldm_third(const sara_ldm_shape *shape, sara_name thirds[3], const char *name)
{
    for (int i = 0; i < FUSED; i++)
        for (int k = 0; k < 3 && fused[i].part == shape->part; k++) {
            const char *at = strstr(name, fused[i].thirds[k]);
            if (!at)
                continue;
            for (int j = 0; j < 3; j++)
                thirds[j] = replaced(name, at, fused[i].thirds[k], fused[i].thirds[j]);
            return k;
        }
    return -1;
}

bool sara_ldm_is_swapped(const sara_ldm_shape *shape, const char *name)
{
    const sara_name last =
        sara_name_of("transformer_blocks.%d.norm1_context.linear.", shape->layers - 1);
    return shape->part == SARA_LDM_MMDIT &&
           (strncmp(name, "norm_out.linear.", strlen("norm_out.linear.")) == 0 ||
            strncmp(name, last.text, strlen(last.text)) == 0);
}
