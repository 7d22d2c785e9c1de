/* Any bytes as what tells how a model is talked to: tokenizer_config.json, then chat_template.json. What opens renders a conversation or says why not,
 * and what stands around a text are ids of the vocabulary. */
#include "fuzz/scratch.h"

#include "base/json.h"
#include "base/memory.h"
#include "grace/chat.h"
#include "text/unicode.h"
#include "text/wrap.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void render(const char *name) {
    grace_chat *chat = NULL;
    grace_chat_options opt = grace_chat_defaults();
    char *text = NULL;
    size_t n = 0;
    if (grace_chat_open(scratch, name, &chat)) {
        GR_ASSERT(!chat && grace_last_error()[0]);
        return;
    }
    opt.messages = "[{\"role\":\"system\",\"content\":\"be brief\"},{\"role\":\"user\",\"content\":\"h\\u00e9llo\"}]";
    opt.n_steps_max = 20000;
    opt.now = 1718454896;
    if (grace_chat_render(chat, &opt, &text, &n)) GR_ASSERT(!text && grace_last_error()[0]);
    else GR_ASSERT(gr_utf8_valid(text, n) == n);
    free(text);
    grace_chat_close(chat);
}

static void wrap(const char *json, size_t n) {
    static const char *const tokens[] = {"<s>", "</s>", "<pad>"};
    gr_json *config = NULL;
    gr_vocab vocab = {0};
    gr_wrapping w = {0};
    gr_arena *arena = gr_arena_new();
    GR_ASSERT(arena && !gr_vocab_init(&vocab, arena, 3, 12));
    for (int32_t i = 0; i < 3; i++) GR_ASSERT(!gr_vocab_add(&vocab, tokens[i], strlen(tokens[i]), i, true));
    if (!gr_json_parse("fuzz", json, n, &config) && !gr_wrapping_configure(&w, config, &vocab)) {
        for (size_t i = 0; i < w.before.n; i++) GR_ASSERT(w.before.data[i] >= 0 && w.before.data[i] < 3);
        for (size_t i = 0; i < w.after.n; i++) GR_ASSERT(w.after.data[i] >= 0 && w.after.data[i] < 3);
    }
    gr_wrapping_free(&w);
    gr_json_free(config);
    gr_arena_free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const uint8_t *at = data, *end = data + n;
    size_t n_config = scratch_part(&at, end);
    scratch_put("tokenizer_config.json", data, n_config, true);
    scratch_put("chat_template.json", at, (size_t)(end - at), at < end);
    render(NULL);
    render("tool_use");
    wrap((const char *)data, n_config);
    return 0;
}
