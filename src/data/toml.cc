#include "data/toml.h"

#define TOML_EXCEPTIONS        0
#define TOML_ASSERT(condition) static_cast<void>(0)
#include <toml++/toml.h>

#include <cstdio>
#include <cstring>
#include <sstream>

/* No exception may reach C. */
char *sara_toml_to_json(const char *text, size_t size, char *why, size_t why_size)
{
    try {
        const toml::parse_result result = toml::parse(std::string_view(text, size));
        if (!result) {
            std::snprintf(why, why_size, "line %u: %s",
                          unsigned(result.error().source().begin.line),
                          std::string(result.error().description()).c_str());
            return nullptr;
        }
        std::ostringstream out;
        out << toml::json_formatter(result.table());
        if (char *json = strdup(out.str().c_str()))
            return json;
    } catch (...) { /* bad_alloc */
    }
    std::snprintf(why, why_size, "out of memory");
    return nullptr;
}
