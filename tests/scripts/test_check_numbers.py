"""scripts/check_numbers.py finds each thing that depends on the locale, and nothing else."""
import os
import subprocess
import sys
import tempfile
import unittest

SCRIPTS = os.path.join(os.path.dirname(__file__), "..", "..", "scripts")
sys.path.insert(0, SCRIPTS)

import check_numbers  # noqa: E402

FOUND = [
    'x = strtod(text, &end);', 'x = strtof(t, NULL);', 'strtold(t, 0)', 'x = atof (t);',
    'strtod_l(t, 0, l)', 'double (*read)(const char *, char **) = strtod;', 'std::stod(t)',
    'sscanf(t, "%d", &i)', 'fscanf(f, "%lf", &d)', 'vsscanf(t, "%d", a)', '__isoc99_sscanf(t, "")',
    'wcstod(w, 0)', 'gcvt(x, 3, out)', 'strfromd(out, 9, "%g", x)',
    *(f'snprintf(s, n, "a %{letter} b", x)' for letter in "aAeEfFgG"),
    *(f'fprintf(f, "%{between}f", x)' for between in
      ["-", "+", " ", "#", "0", "'", "+-08", "12", "*", ".3", ".*", ".", "*.*", "-*.3", "08.3l",
       "L", "1$", "2$*1$.3"]),
    'snprintf(s, n, "%d" " and " "%" "g", i, x)',
    'snprintf(s, n, "first line\\n"\n         "second %.17g", x)',
    'snprintf(s, n, "%" PRId64 " %g", i, x)', 'snprintf(s, n, "%" JSON_INTEGER_FORMAT "%e", i, x)',
    'snprintf(s, n, y ? "%d" : "%g", x)', 'snprintf(s, n, (y ? z ? "a" : "%g" : "b"), x)',
    'snprintf(s, n, "100%%%g", x)', 'snprintf(s, n, "\\x25g", x)', 'snprintf(s, n, "\\45g", x)',
    'snprintf(s, n, "%\\\ng", x)', 'snpr\\\nintf(s, n, "%g", x)',
    'snprintf(s, f(a, b), "%g", x)', 'snprintf /* why */ (s, n, /* not "%d" */ "%g", x)',
    'snprintf(s, n, FORMAT, x)', 'snprintf(s, n, INNER " more", x)', 'snprintf(s, n, "%" KIND, x)',
    'snprintf(s, n, UNKNOWN, x)', 'snprintf(s, n, format, x)',
    'snprintf(s, n, y ? format : "a", x)',
    'printf("%g", x)', 'sprintf(s, "%f", x)', 'dprintf(1, "%f", x)', 'asprintf(&s, "%f", x)',
    '__builtin_snprintf(s, n, "%f", x)', '__snprintf_chk(s, n, 1, n, "%f", x)',
    'vsnprintf(s, n, format, a)', 'vfprintf(f, "%d", a)', '__builtin_vsnprintf(s, n, f, a)',
    '#define PRINT snprintf', 'int (*print)(char *, size_t, const char *, ...) = snprintf;',
    '#define PRINT(...) snprintf(__VA_ARGS__)', "snprintf(s, n, \"%'d\", i)",
    'snprintf(s, n, "%m")', 'snprintf(s, n, "%ls", w)', 'swprintf(w, n, L"%g", x)',
    "c = '\"'; snprintf(s, n, \"%g\", x);", 'strftime(s, n, "%B", t)', 'strftime(s, n, "%Ey", t)',
    'setlocale(LC_ALL, "")', 'localeconv()->decimal_point', 'isspace(c)', 'tolower(c)',
    'strcasecmp(a, b)', 'strncasecmp(a, b, 3)', 'strcoll(a, b)', 'strerror(e)',
    'strerror_r(e, b, n)',
    'json_dumps(v, 0)', 'json_loadb(t, n, 0, NULL)', 'json_sprintf("%g", x)',
]
FREE = [
    '// strtod() and "%g"', '/* strtod(),\n sscanf() */', 'puts("strtod");', '"%g"',
    'sara_fail(ctx, s, "%g", x)', 'sara_print(s, n, "%g", x)',
    'sara_metadata_list_add(l, k, "%g", x)',
    'snprintf(s, n, "%d of %s", i, t)', 'snprintf(s, n, "5.8%% of")', 'snprintf(s, n, "%%g")',
    'snprintf(s, n, "%" PRIu64 "/%zu%c%x%p%lld%.*s", i, n, c, i, p, l, k, t)',
    'snprintf(s, n, y ? "%d" : "%s", x)', 'snprintf(s, n, "%s", "%g")', 'snprintf(s, n, WORD, i)',
    'snprintf(s, n, "\\"%s\\"", "a, b")', '__attribute__((format(printf, 3, 4)))', 'my_atof_(x)',
    'strftime(s, n, "%Y-%m-%dT%H:%M:%SZ", t)', 'strtol(t, &end, 10)', 'isdigit(c)', 'x % f(y) % g',
    'sara_print_args(s, n, format, a)', 'isspace_of_mine', 'json_real(x)',
]
MACROS = """#define FORMAT "%g"
#define INNER FORMAT " x"
#define WORD "word %d"
#define KIND "le"
"""


class Check(unittest.TestCase):
    def faults(self, text, path="io/x.c"):
        return check_numbers.check(path, text, check_numbers.read_macros([MACROS]))

    def test_found(self):
        for text in FOUND:
            with self.subTest(text):
                self.assertEqual(len(self.faults(text)), 1)

    def test_free(self):
        for text in FREE:
            with self.subTest(text):
                self.assertEqual(self.faults(text), [])

    def test_places(self):
        """Each of them belongs in one file only."""
        for text, home in [("strtod(t, 0)", "core/number.c"), ("json_dumps(v, 0)", "io/json.c")]:
            self.assertEqual(self.faults(text, home), [])
            self.assertEqual(len(self.faults(text, "train/log.c")), 1)
        self.assertEqual(len(self.faults("localeconv()", "io/json.c")), 1)

    def test_line(self):
        fault, = self.faults('a\n/* b\n*/ "c\\\nd"\nsnprintf(s, n,\n  "%g", x)')
        self.assertTrue(fault.startswith("io/x.c:5: %g in snprintf"), fault)

    def run_on(self, name, text):
        with tempfile.TemporaryDirectory() as folder:
            os.makedirs(os.path.join(folder, os.path.dirname(name)), exist_ok=True)
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
            return subprocess.run(
                [sys.executable, os.path.join(SCRIPTS, "check_numbers.py"), folder],
                capture_output=True, text=True, check=False)

    def test_program(self):
        for name in ["io/x.c", "io/deeper/x.h", "nn/x_cuda.cu", "x.c"]:
            done = self.run_on(name, "double d = atof(text);\n")
            self.assertEqual(done.returncode, 1, name)
            self.assertIn(f"{name}:1: atof", done.stdout)
        self.assertEqual(self.run_on("io/x.c", "double d;\n").returncode, 0)
        self.assertEqual(self.run_on("cli/x.c", "atof(text);\n").returncode, 1)  # nothing was read


if __name__ == "__main__":
    unittest.main()
