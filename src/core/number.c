#include "core/number.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* glibc and musl have the C locale as a constant: newlocale() allocates nothing there, and a
 * library without writable data has no place to keep one. */
bool sara_c_locale_enter(sara_c_locale *scope)
{
    scope->before = (locale_t)0;
    scope->own = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (scope->own != (locale_t)0)
        scope->before = uselocale(scope->own);
    return scope->before != (locale_t)0;
}

void sara_c_locale_leave(sara_c_locale *scope)
{
    if (scope->before != (locale_t)0)
        uselocale(scope->before);
    if (scope->own != (locale_t)0)
        freelocale(scope->own);
}

double sara_parse_double(const char *text, char **end)
{
    sara_c_locale scope;
    double number = 0;
    *end = (char *)(uintptr_t)text;
    if (sara_c_locale_enter(&scope))
        number = strtod(text, end);
    int error = errno;
    sara_c_locale_leave(&scope);
    errno = error;
    return number;
}

int sara_print_args(char *out, size_t size, const char *format, va_list args)
{
    sara_c_locale scope;
    int length = -1;
    if (size > 0)
        *out = '\0';
    if (sara_c_locale_enter(&scope))
        length = vsnprintf(out, size, format, args);
    sara_c_locale_leave(&scope);
    return length;
}

int sara_print(char *out, size_t size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = sara_print_args(out, size, format, args);
    va_end(args);
    return length;
}

const char *sara_errno_text(char buffer[128], int error)
{
    sara_c_locale scope;
    sara_c_locale_enter(&scope);
    const char *text = strerror_r(error, buffer, 128);
    sara_c_locale_leave(&scope);
    return text;
}

static char lower(char c)
{
    return (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
}

bool sara_text_same(const char *a, const char *b)
{
    while (*a && lower(*a) == lower(*b)) {
        a++;
        b++;
    }
    return lower(*a) == lower(*b);
}
