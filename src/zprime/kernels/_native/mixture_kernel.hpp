// Points against a panel of components; included by instruction_set.hpp alone.
namespace zprime {
namespace INSIDE(SET) {

// All points of a block against all components.
template <class T>
static inline void everything(const Packed<T> &k, const State<T> &s, const Limits &l, Block<T> &b, std::size_t count, T *points) {
    const std::size_t tiles = (count + TILE - 1) / TILE;
    for (std::size_t i = 0; i < tiles * TILE; ++i) {
        const T *z = s.z + b.at[i < count ? i : count - 1] * k.d;
        T *out = points + i / TILE * k.d * TILE + i % TILE;
        for (std::size_t j = 0; j < k.d; ++j) out[j * TILE] = z[k.column[j]];
    }
    const std::size_t bytes = k.d * 2 * LINE;  // of a group
    std::size_t step = 12288 / bytes;          // what stays in the first cache, and as much again on its way there
    if (step < 1) step = 1;
    for (std::size_t start = 0; start < k.groups; start += step) {
        const std::size_t stop = start + step < k.groups ? start + step : k.groups;
        // the next components are fetched while these are worked on, a part with each tile
        const std::size_t next = stop + step < k.groups ? stop + step : k.groups;
        const std::size_t part = ((next - stop) * bytes / LINE + tiles - 1) / tiles * LINE;
        const char *ahead = reinterpret_cast<const char *>(k.data) + stop * bytes, *end = ahead + (next - stop) * bytes;
        for (std::size_t tile = 0; tile < tiles; ++tile) {
            for (std::size_t at = 0; at < part && ahead < end; at += LINE, ahead += LINE) __builtin_prefetch(ahead);
            for (std::size_t group = start; group < stop; ++group)
                visit<T>(k, s, l, b, tile * TILE, count, group, points + tile * k.d * TILE);
        }
    }
}

template <class T>
static double mixture(const Packed<T> &k, const State<T> &s, const Limits &l, std::size_t first, std::size_t count, T *room) {
    constexpr std::size_t W = lanes<T>();
    Block<T> b;
    b.gradient = s.score ? room + 3 * POINTS * k.d : nullptr;
    if (b.gradient) __builtin_memset(b.gradient, 0, POINTS * k.d * LINE);
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t at = s.order ? (std::size_t)s.order[first + i] : first + i;
        b.at[i] = at;
        b.shift[i] = s.shift[at], b.total[i] = s.total[at], b.doubt[i] = s.doubt[at];
        b.left[i] = (std::int64_t)(k.groups * W / 64 + 64);
        b.since[i] = 0;
        b.lowest[i] = (T)INF;
        const std::int64_t without = s.without ? s.without[at] : -1;
        b.without[i] = without >= 0 && (std::size_t)without < k.n && k.place[without] >= 0 ? (std::size_t)k.place[without]
                                                                                          : k.groups * W;
        if (b.shift[i] != b.shift[i]) b.limit[i] = (T)-INF;
        else relimit(k, l, b, i);
    }
    for (std::size_t i = count; i < POINTS; ++i) b.limit[i] = (T)-INF;
    double cost = 1;
    if (k.box) cost = neighbourhoods<T>(k, s, l, b, count, room);
    else everything<T>(k, s, l, b, count, room);
    for (std::size_t i = 0; i < count; ++i) {
        if (b.gradient) flush(k, s, b, i);
        s.shift[b.at[i]] = b.shift[i], s.total[b.at[i]] = b.total[i], s.doubt[b.at[i]] = b.doubt[i];
    }
    return cost;
}

}  // namespace INSIDE(SET)
}  // namespace zprime
