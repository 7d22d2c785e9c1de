#include "plan/knee.h"

#include "base/status.h"

double gr_utility(const double *affinity, int32_t n, const int32_t *group_of) {
    double inside = 0, total = 0;
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = i + 1; j < n; j++) {
            total += affinity[(size_t)i * n + j];
            if (group_of[i] == group_of[j]) inside += affinity[(size_t)i * n + j];
        }
    return total > 0 ? inside / total : 0;
}

double gr_size_spread(const int32_t *group_of, int32_t n, int32_t k, int32_t ideal) {
    double sum = 0;
    for (int32_t g = 0; g < k; g++) {
        int32_t size = 0;
        for (int32_t i = 0; i < n; i++) size += group_of[i] == g;
        sum += (double)(size - ideal) * (size - ideal);
    }
    return sum;
}

/* Least (sign 1) or greatest (sign -1) S; of equal ones the one with more U. */
static int32_t end_of_curve(const grace_knee_point *points, int32_t n, double sign) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++) {
        double step = sign * (points[i].size_std - points[best].size_std);
        if (step < 0 || (step == 0 && points[i].utility > points[best].utility)) best = i;
    }
    return best;
}

int32_t gr_knee(const grace_knee_point *points, int32_t n) {
    GR_ASSERT(n >= 1);
    int32_t first = end_of_curve(points, n, 1), last = end_of_curve(points, n, -1), best = first;
    double run = points[last].size_std - points[first].size_std, rise = points[last].utility - points[first].utility, highest = 0;
    if (run == 0) return first;
    for (int32_t i = 0; i < n; i++) {
        double height = run * (points[i].utility - points[first].utility) - rise * (points[i].size_std - points[first].size_std);
        if (height <= highest) continue;
        highest = height;
        best = i;
    }
    return best;
}
