// Distances of points from groups of components; included by instruction_set.hpp alone.
namespace zprime {
namespace INSIDE(SET) {

// Sum some dimensions of P points, [dimension][point], and one group.
template <class T, int P>
static inline void distances(const T *data, const T *z, std::size_t d, V<T> (&a)[P][NV]) {
    constexpr std::size_t W = lanes<T>(), R = BYTES / sizeof(T);
    for (std::size_t j = 0; j < d; ++j, data += 2 * W, z += P)
        for (int v = 0; v < NV; ++v) {
            const V<T> mean = load(data + v * R), scale = load(data + W + v * R);
            for (int p = 0; p < P; ++p) {
                const V<T> u = (z[p] - mean) * scale;
                a[p][v] += u * u;
            }
        }
}

// A tile of points against a group.
template <class T>
static inline void visit(const Packed<T> &k, const State<T> &s, const Limits &l, Block<T> &b, std::size_t here,
                         std::size_t count, std::size_t group, const T *z) {
    constexpr std::size_t W = lanes<T>(), R = BYTES / sizeof(T);
    V<T> a[TILE][NV];
    for (int v = 0; v < NV; ++v)
        for (int p = 0; p < TILE; ++p) a[p][v] = load(k.constant + group * W + v * R);
    distances<T, TILE>(k.data + group * k.d * 2 * W, z, k.d, a);
    M<T> far = a[0][0] > b.limit[here];
    for (int p = 0; p < TILE; ++p)
        for (int v = 0; v < NV; ++v) far &= a[p][v] > b.limit[here + p];
    if (__builtin_expect(!any(~far), 1)) return;
    for (std::size_t p = 0; p < TILE && here + p < count; ++p) {
        far = a[p][0] > b.limit[here + p];
        for (int v = 1; v < NV; ++v) far &= a[p][v] > b.limit[here + p];
        if (any(~far)) absorb(k, s, l, b, here + p, group, a[p]);
    }
}

// One point against a group, as far as its first `some` dimensions; false if they say that all is far.
template <class T>
static inline bool look(const Packed<T> &k, T limit, std::size_t group, const T *z, std::size_t some, V<T> (&a)[1][NV]) {
    constexpr std::size_t W = lanes<T>(), R = BYTES / sizeof(T);
    for (int v = 0; v < NV; ++v) a[0][v] = load(k.constant + group * W + v * R);
    distances<T, 1>(k.data + group * k.d * 2 * W, z, some, a);
    M<T> far = a[0][0] > limit;
    for (int v = 1; v < NV; ++v) far &= a[0][v] > limit;
    return any(~far);
}

}  // namespace INSIDE(SET)
}  // namespace zprime
