/* What stands around every text: beginning and end tokens, of the post-processor or of tokenizer_config.json. */
#ifndef GR_TEXT_WRAP_H
#define GR_TEXT_WRAP_H
#include "text/bpe.h"

typedef struct gr_wrapping { gr_ids before, after; } gr_wrapping;

/* json: the value of "post_processor", null for none; ids are below n_tokens. Fails with FORMAT, or UNSUPPORTED naming the type. */
grace_status gr_wrapping_read(gr_wrapping *w, const gr_json *json, int32_t n_tokens);
void gr_wrapping_free(gr_wrapping *w);

/* config: tokenizer_config.json. When it has "add_bos_token" or "add_eos_token" these decide, whatever the post-processor does, as in
 * transformers 5: DeepSeek's files ask for a beginning only here. */
grace_status gr_wrapping_configure(gr_wrapping *w, const gr_json *config, const gr_vocab *vocab);

#endif
