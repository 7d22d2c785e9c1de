/* grace run: prompts to text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "chat.h"
#include "cli.h"

enum { KEY_PROMPTS = 0x200, KEY_IDS, KEY_IGNORE_EOS, KEY_SEED, KEY_TEMPERATURE, KEY_TOP_P, KEY_TOP_K, KEY_TRACE, KEY_PROMPT_TOKENS, KEY_REQUESTS };

static const struct argp_option options[] = {
    {0, 0, 0, 0, "Prompts:", 5},
    {"prompt", 'p', "TEXT", 0, "a prompt", 5},
    {"prompts", KEY_PROMPTS, "FILE", 0, "one request a line: text, or {\"prompt\": ..., \"n\": ..., \"temperature\": ...}", 5},
    {"prompt-ids", KEY_IDS, "FILE", 0, "one request a line: token ids", 5},
    {"prompt-tokens", KEY_PROMPT_TOKENS, "N", 0, "random prompts of N token ids, drawn from --seed", 5},
    {"requests", KEY_REQUESTS, "B", 0, "how many random prompts (default 1)", 5},
    {0, 'n', "N", 0, "tokens to generate per request (default 32)", 5},
    {"ignore-eos", KEY_IGNORE_EOS, 0, 0, "go on after end of text", 5},
    {0, 0, 0, 0, "Sampling:", 7},
    {"temperature", KEY_TEMPERATURE, "T", 0, "0: greedy (default)", 7},
    {"top-p", KEY_TOP_P, "P", 0, "keep the likeliest tokens up to this share (default 1)", 7},
    {"top-k", KEY_TOP_K, "K", 0, "keep the K likeliest tokens (default 0: all)", 7},
    {"seed", KEY_SEED, "N", 0, "of the draw, and of random prompts (default 0)", 7},
    {0, 0, 0, 0, "Recording:", 8},
    {"trace", KEY_TRACE, "FILE", 0, "record the routing of this run", 8},
    {0},
};

typedef struct arguments {
    gr_run_options run;
    gr_chat_options chat;
    const char *prompt, *prompts, *ids;
    int32_t prompt_tokens, n_requests;  /* of random prompts; prompt_tokens 0: none */
    grace_request request;
} arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = &a->run, state->child_inputs[1] = &a->chat, state->child_inputs[2] = &a->run; break;
    case 'p': a->prompt = arg; break;
    case 'n': a->request.n_generate = (int32_t)gr_arg_int(state, "n", arg, 0, 1 << 24); break;
    case KEY_PROMPTS: a->prompts = arg; break;
    case KEY_IDS: a->ids = arg; break;
    case KEY_PROMPT_TOKENS: a->prompt_tokens = (int32_t)gr_arg_int(state, "prompt-tokens", arg, 1, 1 << 24); break;
    case KEY_REQUESTS: a->n_requests = (int32_t)gr_arg_int(state, "requests", arg, 1, 1 << 20); break;
    case KEY_IGNORE_EOS: a->request.ignore_eos = true; break;
    case KEY_SEED: a->request.seed = (uint64_t)gr_arg_int(state, "seed", arg, INT64_MIN, INT64_MAX); break;
    case KEY_TEMPERATURE: a->request.temperature = (float)gr_arg_number(state, "temperature", arg, 0, 1000); break;
    case KEY_TOP_P: a->request.top_p = (float)gr_arg_number(state, "top-p", arg, 1e-9, 1); break;
    case KEY_TOP_K: a->request.top_k = (int32_t)gr_arg_int(state, "top-k", arg, 0, INT32_MAX); break;
    case KEY_TRACE: a->run.engine.trace_path = arg; break;
    case ARGP_KEY_END:
        if (a->chat.chat ? !a->prompt == !a->chat.messages : !a->prompt + !a->prompts + !a->ids + !a->prompt_tokens != 3)
            argp_error(state, a->chat.chat ? "--chat: expected one of -p, --messages" : "expected one of -p, --prompts, --prompt-ids, --prompt-tokens");
        if (a->chat.chat && (a->prompts || a->ids || a->prompt_tokens)) argp_error(state, "--chat takes -p or --messages, no other prompts");
        if (a->n_requests && !a->prompt_tokens) argp_error(state, "--requests needs --prompt-tokens");
        if (a->run.random && !a->ids && !a->prompt_tokens) argp_error(state, "--random-weights has no tokenizer: expected --prompt-ids or --prompt-tokens");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static grace_status read_chat(const arguments *a, const gr_session *s, gr_request_list *list) {
    char *text = NULL;
    size_t n = 0;
    grace_status st = gr_chat_prompt(&a->chat, a->run.model, a->prompt, &text, &n);
    if (!st) st = gr_requests_add_chat(list, s->tokenizer, &a->request, text);
    free(text);
    return st;
}

static grace_status read_requests(const arguments *a, const gr_session *s, gr_request_list *list) {
    const int32_t n = a->n_requests ? a->n_requests : 1;
    if (a->prompt_tokens) return gr_requests_add_random(list, &a->request, n, a->prompt_tokens, grace_model_describe(s->model)->vocab);
    if (a->chat.chat) return read_chat(a, s, list);
    if (a->prompt) return gr_requests_add_text(list, s->tokenizer, &a->request, a->prompt);
    if (a->prompts) return gr_requests_add_file(list, s->tokenizer, &a->request, a->prompts);
    return gr_requests_add_ids(list, &a->request, a->ids);
}

/* Text of a single request appears as it is made, where that is sure to be rank 0: with homes by turns. */
typedef struct stream { const grace_tokenizer *tok; grace_decoder decoder; } stream;

static void show_token(void *user, int32_t request, int32_t id) {
    stream *s = user;
    char piece[GRACE_PIECE_MAX];
    size_t n = 0;
    (void)request;
    if (grace_decoder_next(&s->decoder, s->tok, id, 1, piece, &n)) return;
    fwrite(piece, 1, n, stdout);
    fflush(stdout);
}

static void end_stream(stream *s) {
    char piece[GRACE_PIECE_MAX];
    size_t n = 0;
    grace_decoder_finish(&s->decoder, piece, &n);
    fwrite(piece, 1, n, stdout);
    putchar('\n');
}

/* Without a tokenizer, ids. */
static grace_status print_result(const gr_session *s, const grace_result *r) {
    char *text = NULL;
    size_t n;
    grace_status st = s->tokenizer ? grace_tokenizer_decode(s->tokenizer, r->ids, r->n_ids, 1, &text, &n) : GRACE_OK;
    for (int32_t i = 0; i < r->n_ids && !s->tokenizer; i++) printf(i ? " %d" : "%d", r->ids[i]);
    if (!st) printf("%s\n", text ? text : "");
    free(text);
    return st;
}

static grace_status print_results(const gr_session *s, const grace_engine *engine) {
    grace_status st = GRACE_OK;
    for (int32_t i = 0; i < grace_engine_n_requests(engine) && !st; i++) {
        if (grace_engine_n_requests(engine) > 1) printf("--- request %d\n", i);
        st = print_result(s, grace_engine_result(engine, i));
    }
    return st;
}

static void set_result(gr_json *o, const gr_session *s, const grace_result *r) {
    static const char *const finish_names[] = {"none", "length", "eos"};
    char *text = NULL;
    size_t n;
    if (s->tokenizer && grace_tokenizer_decode(s->tokenizer, r->ids, r->n_ids, 1, &text, &n) == GRACE_OK) gr_json_set_string(o, "text", text);
    free(text);
    gr_json_set_ints(o, "token_ids", r->ids, (size_t)r->n_ids);
    gr_json_set_string(o, "finish", finish_names[r->finish]);
    gr_json_set_real(o, "ttft_us", r->ttft_us);
    gr_json_set_real(o, "total_us", r->total_us);
}

static double rate(int64_t tokens, double us) { return us > 0 ? 1e6 * (double)tokens / us : 0; }

static grace_status print_json(const arguments *a, const gr_session *s, const grace_engine *engine, const grace_stats *stats) {
    gr_json *o = gr_json_new_object(), *requests = gr_json_new_array();
    gr_made_json(o, s, &a->run);
    set_result(o, s, grace_engine_result(engine, 0));
    gr_json_set_hex(o, "logits_hash", grace_engine_logits_hash(engine));
    gr_json_set_real(o, "prefill_tok_s", rate(stats->n_prefill, stats->prefill_us));
    gr_json_set_real(o, "decode_tok_s", rate(stats->n_decode, stats->decode_us));
    gr_json_set_string(o, "exchange", gr_exchange_name(a->run.engine.exchange));
    gr_json_set_string(o, "route", gr_route_name(a->run.engine.route));
    gr_json_set_string(o, "homes", gr_homes_name(a->run.engine.homes));
    gr_json_set_bool(o, "exact", a->run.engine.exact);
    gr_json_set_string(o, "device", a->run.engine.device ? a->run.engine.device : "cpu");
    for (int32_t i = 0; i < grace_engine_n_requests(engine); i++) {
        gr_json *r = gr_json_new_object();
        set_result(r, s, grace_engine_result(engine, i));
        gr_json_set_int(r, "home", grace_engine_result(engine, i)->home);
        gr_json_set_int(r, "first_home", grace_engine_result(engine, i)->first_home);
        gr_json_set_int(r, "rows_at_first_home", grace_engine_result(engine, i)->n_first);
        gr_json_set_hex(r, "logits_hash", grace_engine_result(engine, i)->logits_hash);
        gr_json_push(requests, r);
    }
    gr_json_set(o, "requests", requests);
    gr_json_set(o, "stats", gr_stats_json(stats));
    return gr_print_json(o);
}

static grace_status generate(arguments *a, gr_session *s, const gr_request_list *list) {
    grace_status st = GRACE_OK;
    grace_engine *engine = NULL;
    grace_stats stats;
    stream out = {.tok = s->tokenizer};
    bool streaming = list->n == 1 && s->tokenizer && !a->run.json && s->rank == 0 && a->run.engine.homes == GRACE_HOMES_ROUND_ROBIN;
    double tokens = 0;
    GR_TRY(gr_open_showing(s, &a->run.engine, &engine));
    for (int32_t i = 0; i < list->n; i++) {
        grace_request req = list->items[i];
        if (streaming) req.on_token = show_token, req.user = &out;
        st = grace_engine_submit(engine, &req);
        if (st && list->n > 1) gr_fail_in(st, "request %d", i);
        if (st) goto done;
        tokens += req.n_prompt + req.n_generate;
    }
    if (s->rank == 0 && !a->run.json) gr_made_print(s, &a->run);
    s->running = true;
    GR_TRY(gr_run_showing(engine, s->rank == 0 && !streaming ? "generating" : NULL, tokens));
    GR_TRY(grace_engine_collect(engine));
    GR_TRY(grace_engine_stats(engine, &stats));
    s->running = false;
    if (streaming) end_stream(&out);
    if (s->rank == 0 && a->run.json) st = print_json(a, s, engine, &stats);
    else if (s->rank == 0 && !streaming) st = print_results(s, engine);
done:
    grace_engine_close(engine);
    return st;
}

static int show_prompt(arguments *a) {
    grace_status st = gr_chat_show(&a->chat, a->run.model, a->prompt);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    gr_chat_options_free(&a->chat);
    return st ? 1 : 0;
}

int gr_cmd_run(int argc, char **argv) {
    static const struct argp_child children[] = {{&gr_run_argp, 0, 0, 0}, {&gr_chat_argp, 0, 0, 0}, {&gr_made_argp, 0, 0, 0}, {0}};
    static const struct argp argp = {options, parse, 0, "Generate text with a model, on one rank or several.", children, 0, 0};
    arguments a = {.run = gr_run_defaults(), .request = grace_request_defaults()};
    gr_session session;
    gr_request_list list = {0};
    int code;
    a.request.n_generate = 32;
    gr_arg_parse(&argp, 2, argc, argv, &a);
    if (a.chat.show_prompt) return show_prompt(&a);
    if (gr_session_relaunch(&a.run, argc, argv, &code)) return code;
    grace_status st = gr_session_open(&a.run, &session);
    if (!st) st = grace_comm_agree(session.comm, read_requests(&a, &session, &list));
    if (!st) st = generate(&a, &session, &list);
    gr_requests_free(&list);
    gr_chat_options_free(&a.chat);
    return gr_session_close(&session, st);
}
