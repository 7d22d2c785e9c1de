/* The machine a plan is for, as text. */
#ifndef GR_PLAN_CLUSTER_H
#define GR_PLAN_CLUSTER_H
#include "grace/plan.h"

typedef struct gr_cluster_name { char text[40]; } gr_cluster_name;

gr_cluster_name gr_cluster_text(grace_cluster cluster);         /* "node:2 gpu:4", what grace_cluster_parse() reads */

/* At least one node and one GPU, at most GRACE_RANKS_MAX ranks. Fails with ARG, LIMIT. */
grace_status gr_cluster_check(grace_cluster cluster);

#endif
