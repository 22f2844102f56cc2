#include "core/core.h"

sara_status sara_buffer_add(sara_buffer *buffer, const char *data, size_t size)
{
    sara_status status;
    TRY(sara_grow(buffer->ctx, &buffer->data, &buffer->capacity, buffer->length + size + 1, 1));
    memcpy(buffer->data + buffer->length, data, size);
    buffer->length += size;
    buffer->data[buffer->length] = '\0';
done:
    return status;
}

sara_status sara_buffer_put(sara_buffer *buffer, const char *text)
{
    return sara_buffer_add(buffer, text, strlen(text));
}

sara_status sara_buffer_put_char(sara_buffer *buffer, char c)
{
    if (buffer->length + 1 >= buffer->capacity) /* the last for the NUL */
        return sara_buffer_add(buffer, &c, 1);
    SARA_ASSERT(buffer->data);
    buffer->data[buffer->length++] = c;
    buffer->data[buffer->length] = '\0';
    return SARA_OK;
}

sara_status sara_buffer_put_choice(sara_buffer *buffer, const char *name, size_t index,
                                   size_t count)
{
    sara_status status;
    TRY(sara_buffer_put(buffer, index == 0 ? "" : index + 1 < count ? ", " : " or "));
    TRY(sara_buffer_put(buffer, name));
done:
    return status;
}

void sara_buffer_clear(sara_buffer *buffer)
{
    buffer->length = 0;
    if (buffer->data)
        buffer->data[0] = '\0';
}

void sara_buffer_free(sara_buffer *buffer)
{
    sara_free(buffer->ctx, buffer->data);
    *buffer = (sara_buffer){.ctx = buffer->ctx};
}
