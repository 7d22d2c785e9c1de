/* Thousands of steps without a hang, and with the ids of one process, on CPUs; on GPUs the same is in test_gpus.c. */
#include "ranks/soak.h"

static void soak(grace_exchange exchange, grace_homes homes, int32_t n_steps) {
    const soak_options o = {.n_steps = n_steps, .burst_max = 6, .prompt_max = 12, .generate_max = 30};
    gr_comm *comm = ranks_comm(2);
    gr_rng rng = gr_rng_seed(6);
    gr_random_plan_options shape = {2, 12, 3, grace_comm_cluster(comm), 0.4, 0.2};
    grace_plan *plan = gr_random_plan(&shape, &rng);
    gr_random_decode(plan, 0.5, &rng);
    soak_work work = soak_work_new(&o, &rng);
    grace_engine_options opt = world_options();
    grace_engine *engine = NULL;
    opt.exact = true;
    snprintf(case_name, sizeof case_name, "rank %d of %d, 2 nodes, exchange %d, homes %d", comm->rank, comm->n_ranks, (int)exchange, (int)homes);
    int32_t *expected = soak_alone(comm, &work, &o, &opt);
    opt.comm = comm, opt.plan = plan, opt.exchange = exchange, opt.homes = homes;
    assert_ok(grace_engine_open(model, &opt, &engine));
    const soak_seen seen = soak_run(engine, &work, comm->rank);
    soak_check_ids(engine, &work, &o, expected);
    soak_check_seen(comm, &o, &seen);
    grace_engine_close(engine);
    free(expected);
    soak_work_free(&work);
    grace_plan_free(plan);
}

static void thousands_of_steps_with_requests_that_come_and_go_give_one_process_ids(void **state) {
    (void)state;
    soak(GRACE_EXCHANGE_HSC, GRACE_HOMES_ROUND_ROBIN, 5000);
}

static void and_so_do_steps_between_which_requests_move_to_other_ranks(void **state) {
    (void)state;
    soak(GRACE_EXCHANGE_FLAT, GRACE_HOMES_HISTOGRAM, 1500);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(thousands_of_steps_with_requests_that_come_and_go_give_one_process_ids, world_open, world_close),
    cmocka_unit_test_setup_teardown(and_so_do_steps_between_which_requests_move_to_other_ranks, world_open, world_close),
};

RANKS_MAIN("soak", tests)
