/* What DeepSeek-V2 and -V3 share: latent attention and layers of which the first are dense. */
#ifndef GR_MODEL_DEEPSEEK_H
#define GR_MODEL_DEEPSEEK_H
#include "model/family.h"

extern const gr_rule gr_deepseek_rules[];
/* Everything but the gate's rule. */
grace_status gr_deepseek_config(gr_config *config, grace_model_info *info);
/* n_group and topk_group into the gate; a group's experts must be enough to choose from. */
grace_status gr_deepseek_groups(gr_config *config, grace_model_info *info);
grace_status gr_deepseek_layer(gr_folder *folder, const grace_model_info *info, int32_t layer, gr_layer_tensors *out);

#endif
