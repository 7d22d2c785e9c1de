/* What one file per architecture provides. A new family is one file with a gr_family and one line in the table of families (config.c). */
#ifndef GR_MODEL_FAMILY_H
#define GR_MODEL_FAMILY_H
#include "model/config.h"
#include "model/folder.h"
#include "model/weights.h"

typedef struct gr_family {
    const char *model_type;                 /* as config.json spells it */
    /* Reads the family's own keys into info; the shared ones are there already. */
    grace_status (*read_config)(gr_config *config, grace_model_info *info);
    /* Fills one layer, whose experts [n_experts] are allocated; and the tensors around the layers. */
    grace_status (*resolve_layer)(gr_folder *folder, const grace_model_info *info, int32_t layer, gr_layer_tensors *out);
    grace_status (*resolve_ends)(gr_folder *folder, const grace_model_info *info, gr_model_tensors *out);
} gr_family;

extern const gr_family gr_family_olmoe;

#endif
