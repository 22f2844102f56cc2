/* Made by make_masks.py. */
#define MASKS_SEED 7696581394475ull
#define MASKS_RANK 5
static const struct {
    const char *kind, *mask;
    double threshold;
    int64_t total;
    const char *sha256;
} recorded_masks[] = {
    {"sd1", "smallest", 0.005, 100595,
     "fbcd8dc61bece2b672e99ade5c315e2668fb2273442b68879dec7947f9a8cfcf"},
    {"sd1", "largest", 0.005, 100595,
     "4f136c40081832d9cb0ff73429ae4315fc8c2fcaec76c0fe492a5686c680b56a"},
    {"sd1", "random", 0.005, 100595,
     "9ce898b7e34339bd89b09088511aeb00d3f0cfb2949f679b5e590ffe8b4a93a5"},
    {"sd1", "lift", 0.005, 100595,
     "5897f968ee74a70d52ef8bb97d83c106287b7e27576609f3f698f86123c5154d"},
    {"sd1", "smallest", 0.0175, 352563,
     "7a4f5a7a6c4e5c2e853cea930532c92ca5b3185b1d64c4eeb90184520a879c99"},
    {"sd1", "largest", 0.0175, 352563,
     "c873683c7a9830093d3e1128099e69bf85c7823ac9831e55275b0f8e42b35900"},
    {"sd1", "random", 0.0175, 352563,
     "acc515320a1970ec7af1c30cee8f7a0e9d807dc38772eae4d6edb966ea29f062"},
    {"sd1", "lift", 0.0175, 352563,
     "b1d09a16be2c0a6288f18a009a006ccb8d1d5682a5bf5dbfe8721258407e3ebd"},
    {"sd2", "smallest", 0.005, 100998,
     "ad268f5534a380cad4ffb248e8d67837f173c0ebe39778e2194b8f5c81d84908"},
    {"sd2", "largest", 0.005, 100998,
     "58dd37e98ec46e174e84427d20e48947ced455b0fe2370b8b5200f38b4dc6d62"},
    {"sd2", "random", 0.005, 100998,
     "44dccde633204bf3cd99e31cbac47164320272b89ceb30916a80f0003f8c6d60"},
    {"sd2", "lift", 0.005, 100998,
     "9c5339b058519c64f1f6c6672eb13211d0be2bd80e1e1d1ea1a53eab6940bba2"},
    {"sd2", "smallest", 0.0175, 353593,
     "8bd961b81a2e3a852eb39f90ae2718e3e9eac857a7ae183f9dd7b8119ed04d99"},
    {"sd2", "largest", 0.0175, 353593,
     "006d5de86dca41162e77fcc71523e4d356288ff859bf1623106118a0b2f191d1"},
    {"sd2", "random", 0.0175, 353593,
     "203ac065924e37f5cefc54ee45bbed08b3bb07c84398ea6c8facb0eb027915e5"},
    {"sd2", "lift", 0.0175, 353593,
     "78bcd4faf1d79e60700555aa5838571b35415f20d625c80d9e7d3ac29225b88a"},
};
