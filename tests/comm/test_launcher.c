/* Launchers by their variables: who wins, what is missing, and the first host of a list of nodes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "comm/launcher.h"

static const char *const all[] = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RUN_ID",
                                  "TORCHELASTIC_RESTART_COUNT", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID",
                                  "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_JOB_ID", "SLURM_STEP_ID"};

/* "RANK=1 WORLD_SIZE=2": these and no others. */
static void set_only(const char *settings) {
    char text[512], *rest = text;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) unsetenv(all[i]);
    snprintf(text, sizeof text, "%s", settings);
    for (char *word; (word = strsep(&rest, " "));) {
        char *value = strchr(word, '=');
        if (!value) continue;
        *value = '\0';
        setenv(word, value + 1, 1);
    }
}

static gr_launcher found(grace_transport asked, const char *settings) {
    gr_launcher l;
    set_only(settings);
    if (gr_launcher_find(asked, &l) != GRACE_OK) fail_msg("%s: %s", settings, grace_last_error());
    return l;
}

static void refused(const char *settings, const char *sentence) {
    gr_launcher l;
    set_only(settings);
    assert_int_equal(gr_launcher_find(GRACE_TRANSPORT_AUTO, &l), GRACE_ERR_ARG);
    assert_string_equal(grace_last_error(), sentence);
    assert_true(grace_comm_launched());         /* opening says what is wrong: nothing runs as one rank by mistake */
}

static void is_at(const gr_launcher *l, const char *name, int rank, int n_ranks, const char *host, int port) {
    assert_int_equal(l->transport, GRACE_TRANSPORT_TCP);
    assert_string_equal(l->name, name);
    assert_int_equal(l->rank, rank);
    assert_int_equal(l->n_ranks, n_ranks);
    assert_string_equal(l->host, host);
    assert_int_equal(l->port, port);
}

#define TORCH "RANK=1 WORLD_SIZE=4 MASTER_ADDR=gpu07 MASTER_PORT=29500"
#define STEP "SLURM_PROCID=2 SLURM_NTASKS=4 SLURM_STEP_NUM_TASKS=4 SLURM_JOB_NODELIST=gpu[07-08] SLURM_JOB_ID=7 SLURM_STEP_ID=3"

static void nobody_started_a_process_without_variables(void **state) {
    (void)state;
    assert_int_equal(found(GRACE_TRANSPORT_AUTO, "").transport, GRACE_TRANSPORT_SELF);
    assert_false(grace_comm_launched());
    assert_int_equal(found(GRACE_TRANSPORT_AUTO, "MASTER_ADDR=gpu07 MASTER_PORT=29500").transport, GRACE_TRANSPORT_SELF);
    assert_int_equal(found(GRACE_TRANSPORT_AUTO, "SLURM_PROCID=0 SLURM_NTASKS=4").transport, GRACE_TRANSPORT_SELF);     /* a batch script */
    assert_int_equal(found(GRACE_TRANSPORT_AUTO, "SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1").transport, GRACE_TRANSPORT_SELF);     /* a shell under srun */
}

static void torchruns_variables_say_rank_ranks_and_where(void **state) {
    (void)state;
    gr_launcher l = found(GRACE_TRANSPORT_AUTO, TORCH), other;
    is_at(&l, "torchrun", 1, 4, "gpu07", 29500);
    assert_true(grace_comm_launched());
    l = found(GRACE_TRANSPORT_AUTO, TORCH " TORCHELASTIC_USE_AGENT_STORE=True TORCHELASTIC_RUN_ID=a");
    is_at(&l, "torchrun", 1, 4, "gpu07", 29501);        /* its store has the other */
    other = found(GRACE_TRANSPORT_AUTO, TORCH " TORCHELASTIC_USE_AGENT_STORE=False TORCHELASTIC_RUN_ID=b");
    is_at(&other, "torchrun", 1, 4, "gpu07", 29500);
    assert_true(l.job != other.job);
    l = found(GRACE_TRANSPORT_AUTO, "RANK=0 WORLD_SIZE=1");     /* nobody to look for */
    is_at(&l, "torchrun", 0, 1, "", 0);
}

static void sruns_variables_do_without_an_address(void **state) {
    (void)state;
    gr_launcher l = found(GRACE_TRANSPORT_AUTO, STEP), other;
    is_at(&l, "srun", 2, 4, "gpu07", 20000 + 7 * 31 + 3);
    other = found(GRACE_TRANSPORT_AUTO, STEP " SLURM_STEP_ID=4");       /* beside it on the same node */
    assert_true(other.port != l.port && other.job != l.job);
    l = found(GRACE_TRANSPORT_AUTO, STEP " SLURM_STEP_NODELIST=gpu08 MASTER_PORT=1234");
    is_at(&l, "srun", 2, 4, "gpu08", 1234);
    l = found(GRACE_TRANSPORT_AUTO, STEP " MASTER_ADDR=10.0.0.1 WORLD_SIZE=4");         /* what scripts for other programs set is no harm */
    is_at(&l, "srun", 2, 4, "10.0.0.1", 20000 + 7 * 31 + 3);
}

static void mpirun_wins_and_a_torchrun_below_srun_is_torchruns(void **state) {
    (void)state;
    static const char *const of_mpi[] = {"OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4", "PMIX_RANK=2", "PMI_RANK=2", STEP " PMIX_RANK=2",
                                         "OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4 " TORCH};
    for (size_t i = 0; i < sizeof of_mpi / sizeof *of_mpi; i++) {
        assert_int_equal(found(GRACE_TRANSPORT_AUTO, of_mpi[i]).transport, GRACE_TRANSPORT_MPI);
        assert_true(grace_comm_launched());
    }
    gr_launcher l = found(GRACE_TRANSPORT_AUTO, STEP " PMIX_RANK=2 " TORCH);
    is_at(&l, "torchrun", 1, 4, "gpu07", 29500);
}

static void tcp_by_name_takes_ranks_from_any_launcher(void **state) {
    (void)state;
    gr_launcher l = found(GRACE_TRANSPORT_TCP, "OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4 MASTER_ADDR=a MASTER_PORT=5");
    is_at(&l, "mpirun", 2, 4, "a", 5);
    l = found(GRACE_TRANSPORT_TCP, STEP " PMIX_RANK=2");
    is_at(&l, "srun", 2, 4, "gpu07", 20000 + 7 * 31 + 3);
    assert_int_equal(found(GRACE_TRANSPORT_TCP, "").n_ranks, 1);
}

static void variables_that_do_not_fit_together_say_which(void **state) {
    (void)state;
    refused("WORLD_SIZE=4", "WORLD_SIZE is set, RANK is not: ranks over tcp need both (and MASTER_ADDR, MASTER_PORT)");
    refused("RANK=0", "RANK is set, WORLD_SIZE is not: ranks over tcp need both (and MASTER_ADDR, MASTER_PORT)");
    refused("RANK=4 WORLD_SIZE=4 MASTER_ADDR=a MASTER_PORT=1", "RANK: expected a number from 0 to 3, found '4'");
    refused("RANK=-1 WORLD_SIZE=4", "RANK: expected a number from 0 to 3, found '-1'");
    refused("RANK=0 WORLD_SIZE=2x2", "WORLD_SIZE: expected a number from 1 to 8192, found '2x2'");
    refused("RANK=0 WORLD_SIZE=99999999999999999999", "WORLD_SIZE: expected a number from 1 to 8192, found '99999999999999999999'");
    refused("RANK=1 WORLD_SIZE=2", "torchrun started rank 1 of 2, but MASTER_ADDR does not say where rank 0 is");
    refused("RANK=1 WORLD_SIZE=2 MASTER_ADDR=a", "MASTER_PORT is not set");
    refused("RANK=1 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=0", "MASTER_PORT: expected a number from 1 to 65534, found '0'");
    set_only("");
}

static void first_host(const char *list, const char *expected) {
    char host[32];
    if (gr_launcher_first_host(list, host, sizeof host) != GRACE_OK) fail_msg("%s: %s", list, grace_last_error());
    assert_string_equal(host, expected);
}

static void the_first_host_of_a_list_of_nodes(void **state) {
    (void)state;
    first_host("gpu07", "gpu07");
    first_host("gpu07,login1", "gpu07");
    first_host("gpu[07-09,12],login1", "gpu07");
    first_host("gpu[3]", "gpu3");
    first_host("rack[2-3]node[11-12]-ib.example.org", "rack2node11-ib.example.org");
    first_host("n-1.x_y[0001]", "n-1.x_y0001");
}

static void what_is_no_list_of_nodes_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {"", ",", ",a", "[", "a[", "a[]", "a[-1]", "a[1", "a[x]", "a[1-x]", "a b", "a;b", "a]", "a[1[2]]", "$(x)",
                                      "a-name-that-is-longer-than-the-room-there-is", "a[00000000000000000000000000000000001]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char host[32];
        if (gr_launcher_first_host(bad[i], host, sizeof host) != GRACE_ERR_FORMAT) fail_msg("'%s' passed", bad[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_started_a_process_without_variables),
        cmocka_unit_test(torchruns_variables_say_rank_ranks_and_where),
        cmocka_unit_test(sruns_variables_do_without_an_address),
        cmocka_unit_test(mpirun_wins_and_a_torchrun_below_srun_is_torchruns),
        cmocka_unit_test(tcp_by_name_takes_ranks_from_any_launcher),
        cmocka_unit_test(variables_that_do_not_fit_together_say_which),
        cmocka_unit_test(the_first_host_of_a_list_of_nodes),
        cmocka_unit_test(what_is_no_list_of_nodes_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
