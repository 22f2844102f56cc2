#include "models/tokenizer/sentencepiece.h"

#include <sentencepiece_processor.h>

#include <cstdio>
#include <vector>

struct sara_sentencepiece {
    sentencepiece::SentencePieceProcessor processor;
};

/* No exception may reach C. */
sara_sentencepiece *sara_sentencepiece_new(const char *proto, size_t size, char *why,
                                           size_t why_size)
{
    sara_sentencepiece *model = nullptr;
    try {
        model = new sara_sentencepiece;
        const auto status = model->processor.LoadFromSerializedProto({proto, size});
        if (status.ok())
            return model;
        std::snprintf(why, why_size, "%s", status.error_message());
    } catch (...) {
        std::snprintf(why, why_size, "out of memory");
    }
    delete model;
    return nullptr;
}

void sara_sentencepiece_free(sara_sentencepiece *model)
{
    delete model;
}

bool sara_sentencepiece_encode(const sara_sentencepiece *model, const char *text, size_t size,
                               bool (*put)(void *user, int32_t id), void *user)
{
    try {
        std::vector<int> ids;
        if (!model->processor.Encode({text, size}, &ids).ok())
            return false;
        for (int id : ids)
            if (!put(user, id))
                return false;
        return true;
    } catch (...) {
        return false;
    }
}
