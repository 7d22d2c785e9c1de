#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "model/folder.h"
#include "model/folders.h"

static const char index_name[] = "model.safetensors.index.json", first[] = "model-00001-of-00003.safetensors", last[] = "model-00003-of-00003.safetensors";

/* A folder of three shards with an index. */
static int enter_three_shards(void **state) {
    gr_tiny_model_options opt = gr_tiny_model_defaults();
    opt.n_shards = 3;
    return enter(state) || gr_tiny_model_write(dir, &opt);
}

/* One file with this header, padded so that the data begin at a multiple of 8, and n_data zero bytes. */
static void write_shard(const char *name, const char *header, size_t n_data) {
    gr_buf file = {0};
    uint64_t n_header = (strlen(header) + 7) / 8 * 8;
    append(&file, &n_header, 8);
    append(&file, header, strlen(header));
    while (file.n < 8 + n_header) append(&file, " ", 1);
    for (size_t i = 0; i < n_data; i++) append(&file, "", 1);
    write_bytes(name, file.data, file.n);
    gr_buf_free(&file);
}

static grace_status open_and_close(void) {
    gr_folder *folder = NULL;
    grace_status st = gr_folder_open(dir, &folder);
    assert_true((folder != NULL) == (st == GRACE_OK));
    gr_folder_close(folder);
    return st;
}

static void every_tensor_of_the_index_is_found_in_its_shard(void **state) {
    (void)state;
    gr_folder *folder = NULL;
    gr_tiny_model_options opt = gr_tiny_model_defaults();
    gr_tiny_tensor tensors[128];
    gr_tiny_list list = {tensors, 0};
    int64_t n_values = 0;
    gr_tiny_network(&list, &opt);
    assert_int_equal(gr_folder_open(dir, &folder), GRACE_OK);
    for (int i = 0; i < list.n; i++) {
        grace_tensor found;
        gr_buf bytes = {0};
        assert_int_equal(gr_folder_tensor(folder, tensors[i].name, &found), GRACE_OK);
        assert_int_equal(found.rows, tensors[i].rows ? tensors[i].rows : 1);
        assert_int_equal(found.cols, tensors[i].cols);
        assert_int_equal(found.dtype, GRACE_BF16);
        assert_int_equal(gr_tiny_append_values(&bytes, &tensors[i], opt.dtype, opt.seed * 1000003u + (uint64_t)i), GRACE_OK);
        assert_memory_equal(found.data, bytes.data, bytes.n);
        n_values += gr_tiny_count(&tensors[i]);
        gr_buf_free(&bytes);
    }
    assert_int_equal(gr_folder_n_bytes(folder), 2 * n_values);
    assert_int_equal(gr_folder_n_needed(folder), 0);
    gr_folder_close(folder);
}

static void a_needed_tensor_is_counted_once_and_must_have_its_shape(void **state) {
    (void)state;
    gr_folder *folder = NULL;
    grace_tensor t = {0};
    assert_int_equal(gr_folder_open(dir, &folder), GRACE_OK);
    assert_int_equal(gr_folder_matrix(folder, 8, 16, &t, "model.layers.%d.mlp.gate.weight", 1), GRACE_OK);
    assert_int_equal(gr_folder_matrix(folder, 8, 16, &t, "model.layers.%d.mlp.gate.weight", 1), GRACE_OK);
    assert_int_equal(gr_folder_vector(folder, 16, &t, "model.norm.weight"), GRACE_OK);
    assert_int_equal(gr_folder_n_needed(folder), 8 * 16 + 16);
    assert_fails(gr_folder_matrix(folder, 16, 8, &t, "model.layers.0.mlp.gate.weight"), GRACE_ERR_FORMAT, "model-0000", "[8, 16]", "[16, 8]");
    assert_fails(gr_folder_vector(folder, 128, &t, "model.layers.0.mlp.gate.weight"), GRACE_ERR_FORMAT, "[8, 16]", "[128]");
    assert_fails(gr_folder_vector(folder, 4, &t, "model.%s", "nothing"), GRACE_ERR_FORMAT, "'model.nothing'", "3 shards");
    assert_fails(gr_folder_tensor(folder, "model.nothing", &t), GRACE_ERR_MISMATCH, "'model.nothing'");
    gr_folder_close(folder);
}

static void a_shard_that_the_index_names_must_be_there_and_whole(void **state) {
    (void)state;
    gr_file file;
    char copy[64 * 1024];
    assert_int_equal(gr_file_map(path_of(last), &file), GRACE_OK);
    size_t n = file.n;
    assert_true(n <= sizeof copy);
    memcpy(copy, file.data, n);
    gr_file_unmap(&file);
    write_bytes(last, copy, n - 1);
    assert_fails(open_and_close(), GRACE_ERR_FORMAT, index_name, last, "cut short");
    write_bytes(last, copy, 20);
    assert_fails(open_and_close(), GRACE_ERR_FORMAT, last, "cut short");
    unlink(path_of(last));
    assert_fails(open_and_close(), GRACE_ERR_IO, index_name, "names a shard", last, "No such file");
}

static void a_tensor_that_its_shard_lacks_is_named(void **state) {
    (void)state;
    edit(index_name, "\"model.norm.weight\"", "\"model.ghost.weight\"");
    assert_fails(open_and_close(), GRACE_ERR_FORMAT, index_name, "'model.ghost.weight'", last);
    edit(index_name, "\"model.ghost.weight\"", "\"model.norm.weight\"");
    edit(index_name, first, last);      /* the embedding is in the first shard */
    assert_fails(open_and_close(), GRACE_ERR_FORMAT, "'model.embed_tokens.weight'", last);
}

static void an_index_cannot_name_files_of_other_folders(void **state) {
    (void)state;
    const char *const names[] = {"../model-00001-of-00003.safetensors", "/etc/passwd", ""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *before = i ? names[i - 1] : first;
        char from[64], to[64];
        snprintf(from, sizeof from, ": \"%s\"", before);
        snprintf(to, sizeof to, ": \"%s\"", names[i]);
        edit(index_name, from, to);
        assert_fails(open_and_close(), GRACE_ERR_FORMAT, index_name, names[i], "beside it");
    }
}

static void an_index_that_is_no_index_is_refused(void **state) {
    (void)state;
    const struct { const char *text, *says; } cases[] = {
        {"", "no valid JSON"}, {"{\"weight_map\": {\"a\": \"x\"}", "no valid JSON"}, {"[]", "'weight_map'"}, {"{}", "found nothing"},
        {"{\"weight_map\": []}", "found an array"}, {"{\"weight_map\": {\"a\": 3}}", "found an integer"},
        {"{\"weight_map\": {\"a\": \"x\", \"a\": \"x\"}}", "duplicate"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(index_name, cases[i].text);
        assert_fails(open_and_close(), GRACE_ERR_FORMAT, index_name, cases[i].says);
    }
    unlink(path_of(index_name));
    assert_fails(open_and_close(), GRACE_ERR_IO, dir, "neither");
}

static void a_single_file_wins_over_an_index(void **state) {
    (void)state;
    gr_folder *folder = NULL;
    grace_tensor t;
    write_shard("model.safetensors", "{\"only\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24);
    assert_int_equal(gr_folder_open(dir, &folder), GRACE_OK);
    assert_int_equal(gr_folder_tensor(folder, "only", &t), GRACE_OK);
    assert_int_equal(gr_folder_tensor(folder, "model.norm.weight", &t), GRACE_ERR_MISMATCH);
    assert_int_equal(gr_folder_n_bytes(folder), 24);
    gr_folder_close(folder);
}

static void tensors_the_engine_cannot_read_are_refused_when_asked_for(void **state) {
    (void)state;
    gr_folder *folder = NULL;
    grace_tensor t;
    write_shard("model.safetensors",
                "{\"pad\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"odd\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[1,5]},"
                "\"cube\":{\"dtype\":\"F32\",\"shape\":[1,1,1],\"data_offsets\":[5,9]},\"gap\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9,10]},"
                "\"even\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[10,16]},\"wide\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[16,24]},"
                "\"one\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[24,28]}}", 28);
    assert_int_equal(gr_folder_open(dir, &folder), GRACE_OK);
    assert_int_equal(gr_folder_tensor(folder, "even", &t), GRACE_OK);
    assert_true(t.rows == 1 && t.cols == 3 && t.dtype == GRACE_F16);
    assert_int_equal(gr_folder_tensor(folder, "one", &t), GRACE_OK);
    assert_true(t.rows == 1 && t.cols == 1 && t.dtype == GRACE_F32);
    assert_fails(gr_folder_tensor(folder, "odd", &t), GRACE_ERR_UNSUPPORTED, "'odd'", "multiple of 2");
    assert_fails(gr_folder_tensor(folder, "cube", &t), GRACE_ERR_UNSUPPORTED, "'cube'", "3 dimensions");
    assert_fails(gr_folder_tensor(folder, "wide", &t), GRACE_ERR_UNSUPPORTED, "'wide'", "F64");
    gr_folder_close(folder);
    gr_folder_close(NULL);
}

#define IN_THREE_SHARDS(test) cmocka_unit_test_setup_teardown(test, enter_three_shards, leave)

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_THREE_SHARDS(every_tensor_of_the_index_is_found_in_its_shard),
        IN_THREE_SHARDS(a_needed_tensor_is_counted_once_and_must_have_its_shape),
        IN_THREE_SHARDS(a_shard_that_the_index_names_must_be_there_and_whole),
        IN_THREE_SHARDS(a_tensor_that_its_shard_lacks_is_named),
        IN_THREE_SHARDS(an_index_cannot_name_files_of_other_folders),
        IN_THREE_SHARDS(an_index_that_is_no_index_is_refused),
        IN_THREE_SHARDS(a_single_file_wins_over_an_index),
        cmocka_unit_test_setup_teardown(tensors_the_engine_cannot_read_are_refused_when_asked_for, enter, leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
