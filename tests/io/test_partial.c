/* What is half-written: known to be left by a killed process, or to be another's at this moment. */
#include "support_io.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static sara_context *ctx;
static char *folder;

static int setup(void **state)
{
    (void)state;
    ctx = test_context();
    folder = test_folder();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    test_folder_remove(folder);
    sara_context_free(ctx);
    return 0;
}

/* A process begins to write and is killed. */
static void leave_remains(const char *path, bool as_folder)
{
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        sara_partial partial;
        char *inner = NULL;
        if (sara_partial_make(ctx, &partial, path, as_folder) == SARA_OK && as_folder &&
            sara_path_join(ctx, &inner, partial.path, "x/y") == SARA_OK &&
            sara_directory_make(ctx, inner) != SARA_OK)
            _exit(1);
        raise(SIGKILL);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
}

static void test_killed(void **state)
{
    (void)state;
    char *path = test_join(folder, "f"), *other = test_join(folder, "g");
    for (int i = 0; i < 4; i++) {
        leave_remains(path, i % 2);
        test_assert_names(ctx, folder, 1);
        assert_ok(ctx, sara_file_write(ctx, other, "other", 5));
        test_assert_names(ctx, folder, 2);
        if (i < 2) {
            assert_ok(ctx, sara_file_write(ctx, path, "text", 4));
        } else {
            sara_partial partial;
            assert_ok(ctx, sara_partial_make(ctx, &partial, path, true));
            assert_ok(ctx, sara_partial_publish(ctx, &partial, path));
        }
        test_assert_names(ctx, folder, 2);
        assert_int_equal(unlink(other), 0);
        assert_int_equal(remove(path), 0);
    }
    free(path);
    free(other);
}

/* Several of one path; those that are held stay and go where they are to. */
static void test_held(void **state)
{
    (void)state;
    char *path = test_join(folder, "f");
    sara_partial one, two, three;
    assert_ok(ctx, sara_partial_make(ctx, &one, path, true));
    assert_ok(ctx, sara_partial_make(ctx, &two, path, false));
    leave_remains(path, false);
    leave_remains(path, true); /* takes the one before away */
    test_assert_names(ctx, folder, 3);
    assert_int_equal(close(one.fd), 0); /* held no longer */
    sara_free(ctx, one.path);
    assert_ok(ctx, sara_partial_make(ctx, &three, path, true));
    test_assert_names(ctx, folder, 2);
    assert_ok(ctx, sara_partial_publish(ctx, &two, path));
    test_assert_names(ctx, folder, 2);
    sara_partial_discard(ctx, &two);
    sara_partial_discard(ctx, &three);
    test_assert_names(ctx, folder, 1);
    free(path);
}

/* Of any path, in a folder of many files; others' files of nearly such names stay. */
static void test_sweep(void **state)
{
    (void)state;
    static const char *const others[] = {".sara-cache", ".sara-0123456789abcdef-.tmp",
                                         ".sara-0123456789abcdef-0.tmp2",
                                         ".sara-0123456789abcdeg-0.tmp", "f"};
    const size_t count = sizeof(others) / sizeof(*others);
    char *path = test_join(folder, "f"), *other = test_join(folder, "g");
    sara_partial held;
    for (size_t i = 0; i < count; i++)
        free(test_file(folder, others[i], "kept", 4));
    assert_ok(ctx, sara_partial_make(ctx, &held, path, false));
    leave_remains(other, false);
    leave_remains(other, true); /* a folder, in the place of the file */
    leave_remains(path, false);
    test_assert_names(ctx, folder, count + 3);
    assert_ok(ctx, sara_partial_sweep(ctx, folder));
    test_assert_names(ctx, folder, count + 2);
    assert_ok(ctx, sara_partial_publish(ctx, &held, path));
    assert_ok(ctx, sara_partial_sweep(ctx, other)); /* there is none */
    sara_partial_discard(ctx, &held);
    free(path);
    free(other);
}

/* A link under such a name is none of this program's. */
static void test_link(void **state)
{
    (void)state;
    char *path = test_join(folder, "f"), *kept = test_file(folder, "kept", "kept", 4), *link;
    sara_partial partial;
    assert_ok(ctx, sara_partial_make(ctx, &partial, path, false));
    assert_ok(ctx, sara_strdup(ctx, &link, partial.path));
    sara_partial_discard(ctx, &partial);
    assert_int_equal(symlink(kept, link), 0);
    assert_ok(ctx, sara_file_write(ctx, path, "text", 4));
    test_assert_names(ctx, folder, 3);
    assert_true(sara_path_exists(link));
    sara_free(ctx, link);
    free(kept);
    free(path);
}

static void test_no_place(void **state)
{
    (void)state;
    char *path = test_join(folder, "no/f"), *file = test_file(folder, "a", "", 0);
    char *below = test_join(folder, "a/b/f");
    sara_partial partial;
    assert_refused(ctx, SARA_ERROR_IO, "no/f: cannot create a temporary file beside it: No such",
                   sara_partial_make(ctx, &partial, path, false));
    sara_partial_discard(ctx, &partial);
    assert_refused(ctx, SARA_ERROR_IO, "a: cannot make the folder: File exists",
                   sara_partial_make(ctx, &partial, below, true));
    sara_partial_discard(ctx, &partial);
    assert_ok(ctx, sara_partial_make(ctx, &partial, path, true)); /* with its parents */
    sara_partial_discard(ctx, &partial);
    free(path);
    free(file);
    free(below);
}

static sara_status write_over_remains(sara_context *c, const char *path)
{
    sara_partial partial;
    sara_status status;
    leave_remains(path, true);
    TRY(sara_partial_make(c, &partial, path, true));
    TRY(sara_partial_publish(c, &partial, path));
done:
    sara_partial_discard(c, &partial);
    return status;
}

static void test_memory(void **state)
{
    (void)state;
    char *path = test_join(folder, "f");
    test_every_allocation(write_over_remains, path);
    test_assert_names(ctx, folder, 1);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_held, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sweep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_link, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_place, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
