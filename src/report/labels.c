/* Texts beside points: each at the nearest place where it covers no mark and no other text, with a
 * line to its mark where that is not beside it; where there is none, the mark shows it alone. */
#include "report/plot.h"

#include <math.h>

#define LABEL_COLUMNS 30
#define LABEL_HEIGHT  15.0
#define LABEL_RINGS   8

typedef struct label_box {
    double left, top, right, bottom;
} label_box;

typedef struct label_map {
    const sara_frame *frame;
    label_box *taken;
    size_t count, capacity;
} label_map;

static sara_status label_take(label_map *map, label_box box)
{
    sara_status status =
        sara_grow(map->frame->page->ctx, &map->taken, &map->capacity, map->count + 1, sizeof(box));
    if (status == SARA_OK)
        map->taken[map->count++] = box;
    return status;
}

static bool label_is_free(const label_map *map, const label_box *box)
{
    const sara_frame *f = map->frame;
    if (box->left < f->left + 2 || box->right > SARA_PLOT_WIDTH - 2 || box->top < f->top ||
        box->bottom > f->bottom - 1)
        return false;
    for (size_t i = 0; i < map->count; i++) {
        const label_box *other = &map->taken[i];
        if (box->left < other->right && other->left < box->right && box->top < other->bottom &&
            other->top < box->bottom)
            return false;
    }
    return true;
}

/* The free box next to a mark; false: there is none. ring: how far away it is. */
static bool label_find(const label_map *map, label_box *out, double x, double y, double radius,
                       double width, int *ring)
{
    static const double directions[][2] = {{1, 0},      {-1, 0},      {0, -1},    {0, 1},
                                           {0.8, -0.7}, {-0.8, -0.7}, {0.8, 0.7}, {-0.8, 0.7},
                                           {0.4, -0.9}, {-0.4, -0.9}, {0.4, 0.9}, {-0.4, 0.9}};
    for (*ring = 0; *ring < LABEL_RINGS; ++*ring)
        for (size_t i = 0; i < sizeof(directions) / sizeof(*directions); i++) {
            const double *to = directions[i];
            double reach = radius + 4 + 14 * *ring;
            double middle_x = x + to[0] * (reach + width / 2);
            double middle_y = y + to[1] * (reach + LABEL_HEIGHT / 2);
            *out = (label_box){middle_x - width / 2, middle_y - LABEL_HEIGHT / 2,
                               middle_x + width / 2, middle_y + LABEL_HEIGHT / 2};
            if (label_is_free(map, out))
                return true;
        }
    return false;
}

static sara_status put_label(label_map *map, const sara_series *s, size_t index)
{
    sara_buffer *p = &map->frame->page->text;
    int ring, columns = sara_text_columns(s->labels[index]);
    double width = SARA_TEXT_EM * (columns > LABEL_COLUMNS ? LABEL_COLUMNS : columns), x, y;
    label_box box;
    sara_status status = SARA_OK;
    if (!sara_frame_point(map->frame, s, index, &x, &y) ||
        !label_find(map, &box, x, y, sara_mark_radius(map->frame, s, index), width, &ring))
        goto done;
    TRY(label_take(map, box));
    if (ring > 0)
        TRY(sara_put_format(p, "<path class=\"lead\" d=\"M%.1f,%.1fL%.1f,%.1f\"/>", x, y,
                            fmin(fmax(x, box.left), box.right),
                            fmin(fmax(y, box.top), box.bottom)));
    bool right = box.left >= x, left = box.right <= x;
    TRY(sara_put_format(p, "<text class=\"halo\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">",
                        right  ? box.left
                        : left ? box.right
                               : (box.left + box.right) / 2,
                        box.bottom - 4,
                        right  ? "start"
                        : left ? "end"
                               : "middle"));
    TRY(sara_put_cut(p, s->labels[index], LABEL_COLUMNS));
    TRY(sara_buffer_put(p, "</text>\n"));
done:
    return status;
}

static sara_status label_take_marks(label_map *map)
{
    const sara_frame *f = map->frame;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < f->plot->series_count; i++) {
        const sara_series *s = &f->plot->series[i];
        for (size_t j = 0; j < s->count && s->mark == SARA_MARK_POINT && !s->faint; j++) {
            double x, y, r = sara_mark_radius(f, s, j) + 1;
            if (sara_frame_point(f, s, j, &x, &y))
                TRY(label_take(map, (label_box){x - r, y - r, x + r, y + r}));
        }
    }
done:
    return status;
}

sara_status sara_put_labels(const sara_frame *frame)
{
    label_map map = {.frame = frame};
    sara_status status;
    TRY(label_take_marks(&map));
    for (size_t i = 0; i < frame->plot->series_count; i++) {
        const sara_series *s = &frame->plot->series[i];
        for (size_t j = 0; s->labels && j < s->count; j++)
            if (s->labels[j])
                TRY(put_label(&map, s, j));
    }
done:
    sara_free(frame->page->ctx, map.taken);
    return status;
}
