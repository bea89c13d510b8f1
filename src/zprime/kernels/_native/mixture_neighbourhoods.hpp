// Points against the components near them: groups are passed over by the boxes round them; included by
// instruction_set.hpp alone.
namespace zprime {
namespace INSIDE(SET) {

// Of some groups those that are not far from a point by their first dimensions. No branch depends on the data: it would
// be guessed wrong half the time.
template <class T, std::size_t SOME>
static inline std::size_t sieve(const Packed<T> &k, T limit, const T *z, std::uint32_t *list, std::size_t n) {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < n; ++i) {
        V<T> a[1][NV];
        const std::uint32_t group = list[i];
        const bool near = look<T>(k, limit, group, z, SOME, a);
        list[kept] = group;
        kept += near;
    }
    return kept;
}

// The least that a can be between a box of points and each of a line of groups' boxes.
template <class T>
static inline void between(const Packed<T> &k, std::size_t line, const T *low, const T *high, T limit, V<T> (&a)[NV]) {
    constexpr std::size_t W = lanes<T>(), R = BYTES / sizeof(T), STEP = 8;
    const T *box = k.box + line * k.d * 3 * W;
    for (int v = 0; v < NV; ++v) a[v] = load(k.least + line * W + v * R);
    for (std::size_t start = 0; start < k.d; start += STEP) {
        const std::size_t stop = start + STEP < k.d ? start + STEP : k.d;
        for (std::size_t j = start; j < stop; ++j, box += 3 * W)
            for (int v = 0; v < NV; ++v) {
                const V<T> under = load(box + v * R) - high[j], over = low[j] - load(box + W + v * R);
                V<T> gap = choose<T>(under > over, under, over);
                gap = choose<T>(gap > 0, gap, V<T>{}) * load(box + 2 * W + v * R);
                a[v] += gap * gap;
            }
        M<T> far = a[0] > limit;
        for (int v = 1; v < NV; ++v) far &= a[v] > limit;
        if (!any(~far)) return;
    }
}

// The groups nearest to a few points, nearest first.
template <class T> struct Nearest {
    T a[START];
    std::uint32_t group[START];
    std::size_t found;
};

template <class T> static inline void insert(Nearest<T> &n, T a, std::uint32_t group) {
    std::size_t i = n.found < START ? n.found++ : START - 1;
    for (; i > 0 && a < n.a[i - 1]; --i) n.a[i] = n.a[i - 1], n.group[i] = n.group[i - 1];
    n.a[i] = a, n.group[i] = group;
}

// Points of a block, FEW neighbours at a time, against the components that are near enough to matter.
template <class T>
static inline double neighbourhoods(const Packed<T> &k, const State<T> &s, const Limits &l, Block<T> &b, std::size_t count, T *points) {
    constexpr std::size_t W = lanes<T>();
    constexpr double BOX = 3, ALONE = 2;  // cost of a dimension of a box, and of a group met by one point alone
    double spent = 0;
    const std::size_t d = k.d, few = (count + FEW - 1) / FEW, lines = (k.groups + W - 1) / W;
    T *low = points + POINTS * d, *high = low + POINTS * d;
    Nearest<T> nearest[POINTS / FEW];
    for (std::size_t f = 0; f < few; ++f) {
        nearest[f].found = 0;
        for (std::size_t j = 0; j < d; ++j) low[f * d + j] = (T)INF, high[f * d + j] = (T)-INF;
        for (std::size_t i = f * FEW; i < count && i < f * FEW + FEW; ++i)
            for (std::size_t j = 0; j < d; ++j) {
                const T z = s.z[b.at[i] * d + k.column[j]];
                points[i * d + j] = z;
                if (z < low[f * d + j]) low[f * d + j] = z;
                if (z > high[f * d + j]) high[f * d + j] = z;
            }
    }
    // those nearest by their boxes come first: what they sum to tells which others can be passed over
    for (std::size_t line = 0; line < lines; ++line)
        for (std::size_t f = 0; f < few; ++f) {
            Nearest<T> &n = nearest[f];
            V<T> a[NV];
            M<T> nearer[NV];
            const T limit = n.found < START ? (T)INF : n.a[START - 1];
            between<T>(k, line, low + f * d, high + f * d, limit, a);
            for (int v = 0; v < NV; ++v) nearer[v] = a[v] < limit;
            for (unsigned rest = bits<T>(nearer); rest; rest &= rest - 1) {
                const unsigned w = (unsigned)__builtin_ctz(rest);
                const T x = a[w / (W / NV)][w % (W / NV)];
                if (n.found < START || x < n.a[START - 1]) insert<T>(n, x, (std::uint32_t)(line * W + w));
            }
        }
    for (std::size_t i = 0; i < count; ++i)
        for (std::size_t n = 0; n < nearest[i / FEW].found; ++n) {
            V<T> a[1][NV];
            const std::size_t group = nearest[i / FEW].group[n];
            if (look<T>(k, b.limit[i], group, points + i * d, d, a)) absorb(k, s, l, b, i, group, a[0]);
        }
    constexpr std::size_t MOST = 8;  // lines taken together
    std::size_t step = 12288 / (d * 3 * LINE);
    step = step < 1 ? 1 : step > MOST ? MOST : step;
    std::uint32_t list[MOST * W];
    for (std::size_t start = 0; start < lines; start += step)
        for (std::size_t f = 0; f < few; ++f) {
            const std::size_t end = count < f * FEW + FEW ? count : f * FEW + FEW;
            T limit = b.limit[f * FEW];
            for (std::size_t i = f * FEW; i < end; ++i) limit = b.limit[i] > limit ? b.limit[i] : limit;
            unsigned near[MOST], some = 0;
            const std::size_t stop = start + step < lines ? start + step : lines;
            for (std::size_t line = start; line < stop; ++line) {
                V<T> a[NV];
                M<T> m[NV];
                between<T>(k, line, low + f * d, high + f * d, limit, a);
                for (int v = 0; v < NV; ++v) m[v] = ~(a[v] > limit);
                unsigned found = bits<T>(m);
                if (k.groups - line * W < W) found &= (1u << (k.groups - line * W)) - 1;
                for (std::size_t n = 0; n < nearest[f].found; ++n)
                    if (nearest[f].group[n] / W == line) found &= ~(1u << (nearest[f].group[n] % W));
                near[line - start] = found;
                some |= found;
            }
            if (!some) continue;
            for (std::size_t i = f * FEW; i < end; ++i) {
                const T *z = points + i * d;
                std::size_t n = 0;
                for (std::size_t line = start; line < stop; ++line) {
                    if (!near[line - start]) continue;
                    spent += BOX * d;
                    V<T> a[NV];
                    M<T> m[NV];
                    between<T>(k, line, z, z, b.limit[i], a);
                    for (int v = 0; v < NV; ++v) m[v] = ~(a[v] > b.limit[i]);
                    for (unsigned rest = bits<T>(m) & near[line - start]; rest; rest &= rest - 1)
                        list[n++] = (std::uint32_t)(line * W) + (std::uint32_t)__builtin_ctz(rest);
                }
                if (d > 12) spent += ALONE * 8 * n, n = sieve<T, 8>(k, b.limit[i], z, list, n);
                if (d > 24) spent += ALONE * 16 * n, n = sieve<T, 16>(k, b.limit[i], z, list, n);
                if (d > 48) spent += ALONE * 32 * n, n = sieve<T, 32>(k, b.limit[i], z, list, n);
                spent += ALONE * d * n;
                for (std::size_t j = 0; j < n; ++j) {
                    V<T> a[1][NV];
                    if (look<T>(k, b.limit[i], list[j], z, d, a)) absorb(k, s, l, b, i, list[j], a[0]);
                }
            }
        }
    spent += BOX * d * lines * few * 2;
    return spent / (static_cast<double>(k.groups) * d * count);
}

}  // namespace INSIDE(SET)
}  // namespace zprime
