/* Text that is the same in every locale. A host program may have set LC_NUMERIC to a locale with
 * another decimal point, so the layers use these in the place of strtod(), vsnprintf(), strerror()
 * and strcasecmp(); scripts/check_numbers.py sees to it. Other threads and the host's own locale
 * are not touched. */
#ifndef SARA_CORE_NUMBER_H
#define SARA_CORE_NUMBER_H

#include <locale.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

/* The calling thread's locale is C from enter (false: there is no memory for it, and nothing has
 * changed) to leave. For libraries that print or read numbers; no callback may run in between. */
typedef struct sara_c_locale {
    locale_t own, before;
} sara_c_locale;
bool sara_c_locale_enter(sara_c_locale *scope);
void sara_c_locale_leave(sara_c_locale *scope);

/* strtod() with errno as it sets it. Without memory for a locale nothing is read: *end is text. */
double sara_parse_double(const char *text, char **end);
/* snprintf() and vsnprintf(). Without memory for a locale -1, and the text is empty. */
int sara_print(char *out, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int sara_print_args(char *out, size_t size, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));
/* strerror() in English; lies in the buffer or is constant. */
const char *sara_errno_text(char buffer[128], int error);
/* Whether both are the same but for the case of ASCII letters. */
bool sara_text_same(const char *a, const char *b);

#endif
