#include "plan/group.h"

#include <math.h>

#include "base/memory.h"

enum { POOLED = -1 };

gr_size_bounds gr_size_bounds_of(int32_t n, int32_t k, double r) {
    gr_size_bounds b = {.ideal = n / k};
    double delta = round(b.ideal * r);
    b.delta = delta > 1 ? (int32_t)fmin(delta, n) : 1;
    b.min = b.ideal - b.delta > 1 ? b.ideal - b.delta : 1;
    b.max = b.ideal + b.delta;
    return b;
}

gr_size_bounds gr_size_bounds_equal(int32_t n, int32_t k) { return (gr_size_bounds){.ideal = n / k, .min = n / k, .max = (n + k - 1) / k}; }

double gr_affinity_to(const double *affinity, int32_t n, const int32_t *group_of, int32_t expert, int32_t group) {
    double sum = 0;
    for (int32_t j = 0; j < n; j++)
        if (group_of[j] == group && j != expert) sum += affinity[(size_t)expert * n + j];
    return sum;
}

static void count_members(const int32_t *group_of, int32_t n, int32_t *count) {
    for (int32_t i = 0; i < n; i++) count[group_of[i]]++;
}

/* The member with the least score, of equal ones the higher id: those kept are the strongest, ties by id. */
static int32_t weakest_member(const int32_t *group_of, int32_t n, int32_t group, const double *score) {
    int32_t worst = -1;
    for (int32_t i = 0; i < n; i++)
        if (group_of[i] == group && (worst < 0 || score[i] <= score[worst])) worst = i;
    return worst;
}

/* Step 2. Scores are those of the whole cluster, taken once: the paper ranks members, it does not re-rank after each removal. */
static void trim(const double *affinity, int32_t n, int32_t k, int32_t size_max, int32_t *group_of, int32_t *count, double *score) {
    for (int32_t i = 0; i < n; i++) score[i] = gr_affinity_to(affinity, n, group_of, i, group_of[i]);
    for (int32_t g = 0; g < k; g++)
        for (; count[g] > size_max; count[g]--) group_of[weakest_member(group_of, n, g, score)] = POOLED;
}

static int32_t strongest_pooled(const int32_t *group_of, int32_t n, const double *total) {
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++)
        if (group_of[i] == POOLED && (best < 0 || total[i] > total[best])) best = i;
    return best;
}

static int32_t best_group(const double *affinity, int32_t n, int32_t k, int32_t size_max, const int32_t *group_of, const int32_t *count,
                          int32_t expert) {
    int32_t best = -1;
    double best_gain = 0;
    for (int32_t g = 0; g < k; g++) {
        if (count[g] >= size_max) continue;
        double gain = gr_affinity_to(affinity, n, group_of, expert, g);
        if (best >= 0 && (gain < best_gain || (gain == best_gain && count[g] >= count[best]))) continue;
        best = g;
        best_gain = gain;
    }
    GR_ASSERT(best >= 0);       /* n <= k * size_max: while an expert is pooled some group has room */
    return best;
}

/* Step 3. */
static void place_pool(const double *affinity, int32_t n, int32_t k, int32_t size_max, int32_t *group_of, int32_t *count, double *total) {
    for (int32_t i = 0; i < n; i++) {
        total[i] = 0;
        for (int32_t j = 0; j < n; j++) total[i] += affinity[(size_t)i * n + j];
    }
    for (int32_t i; (i = strongest_pooled(group_of, n, total)) >= 0;) {
        group_of[i] = best_group(affinity, n, k, size_max, group_of, count, i);
        count[group_of[i]]++;
    }
}

/* The expert that holds least to its group, among groups that can spare one; ties by id. */
static int32_t loosest_expert(const double *affinity, int32_t n, int32_t size_min, const int32_t *group_of, const int32_t *count) {
    int32_t best = -1;
    double least = 0;
    for (int32_t i = 0; i < n; i++) {
        if (count[group_of[i]] <= size_min) continue;
        double own = gr_affinity_to(affinity, n, group_of, i, group_of[i]);
        if (best >= 0 && own >= least) continue;
        best = i;
        least = own;
    }
    GR_ASSERT(best >= 0);       /* k * size_min <= n: while a group is under the minimum another is above it */
    return best;
}

/* Step 4. Each move fills one place of the total deficit and opens none, so it ends; takers stay at or under the minimum. */
static void fill(const double *affinity, int32_t n, int32_t k, int32_t size_min, int32_t *group_of, int32_t *count) {
    for (int32_t g = 0; g < k; g++)
        while (count[g] < size_min) {
            int32_t i = loosest_expert(affinity, n, size_min, group_of, count);
            count[group_of[i]]--;
            group_of[i] = g;
            count[g]++;
        }
}

grace_status gr_group_bound(const double *affinity, int32_t n, int32_t k, gr_size_bounds bounds, int32_t *group_of) {
    grace_status st = GRACE_OK;
    int32_t *count = NULL;
    double *score = NULL;
    GR_ASSERT((int64_t)k * bounds.min <= n && n <= (int64_t)k * bounds.max);
    GR_CALLOC(count, k);
    GR_CALLOC(score, n);
    count_members(group_of, n, count);
    trim(affinity, n, k, bounds.max, group_of, count, score);
    place_pool(affinity, n, k, bounds.max, group_of, count, score);
    fill(affinity, n, k, bounds.min, group_of, count);
done:
    free(count), free(score);
    return st;
}

grace_status gr_group_fill(const double *affinity, int32_t n, int32_t k, int32_t size_min, int32_t *group_of) {
    grace_status st = GRACE_OK;
    int32_t *count = NULL;
    GR_ASSERT((int64_t)k * size_min <= n);
    GR_CALLOC(count, k);
    count_members(group_of, n, count);
    fill(affinity, n, k, size_min, group_of, count);
done:
    free(count);
    return st;
}
