#include "io/file.h"

#include <openssl/evp.h>
#include <unistd.h>

#define CHUNK_SIZE ((size_t)1024 * 1024)

struct sara_sha256 {
    sara_context *ctx;
    EVP_MD_CTX *state;
};

/* OpenSSL's SHA-256 fails only for want of memory. */
static sara_status failed(sara_context *ctx)
{
    return sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: SHA-256");
}

sara_status sara_sha256_new(sara_context *ctx, sara_sha256 **out)
{
    sara_sha256 *hash = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_alloc_zero(ctx, &hash, 1, sizeof(*hash)));
    hash->ctx = ctx;
    hash->state = EVP_MD_CTX_new();
    if (!hash->state || EVP_DigestInit_ex(hash->state, EVP_sha256(), NULL) != 1) {
        status = failed(ctx);
        goto done;
    }
    *out = hash;
    hash = NULL;
done:
    sara_sha256_abort(&hash);
    return status;
}

sara_status sara_sha256_add(sara_sha256 *hash, const void *data, size_t size)
{
    if (size > 0 && EVP_DigestUpdate(hash->state, data, size) != 1)
        return failed(hash->ctx);
    return SARA_OK;
}

sara_status sara_sha256_end(sara_sha256 **hash, char out[65])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    sara_status status = SARA_OK;
    out[0] = '\0';
    if (EVP_DigestFinal_ex((*hash)->state, digest, &size) != 1 || size != 32) {
        status = failed((*hash)->ctx);
        goto done;
    }
    for (unsigned i = 0; i < size; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
    out[64] = '\0';
done:
    sara_sha256_abort(hash);
    return status;
}

void sara_sha256_abort(sara_sha256 **hash)
{
    if (!*hash)
        return;
    EVP_MD_CTX_free((*hash)->state);
    sara_free((*hash)->ctx, *hash);
    *hash = NULL;
}

sara_status sara_sha256_file(sara_context *ctx, char out[65], const char *path)
{
    sara_sha256 *hash = NULL;
    char *buffer = NULL;
    uint64_t size = 0;
    int fd = -1;
    sara_status status;
    out[0] = '\0';
    TRY(sara_file_open(ctx, &fd, &size, path));
    TRY(sara_alloc(ctx, &buffer, CHUNK_SIZE, 1));
    TRY(sara_sha256_new(ctx, &hash));
    for (uint64_t at = 0; at < size;) {
        size_t part = size - at < CHUNK_SIZE ? (size_t)(size - at) : CHUNK_SIZE;
        TRY(sara_file_pread(ctx, fd, buffer, part, at, path));
        TRY(sara_sha256_add(hash, buffer, part));
        at += part;
    }
    TRY(sara_sha256_end(&hash, out));
done:
    sara_sha256_abort(&hash);
    sara_free(ctx, buffer);
    if (fd >= 0)
        close(fd);
    return status;
}
