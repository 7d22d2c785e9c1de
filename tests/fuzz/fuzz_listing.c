/* Any bytes as a hub's listing: names that are safe to create, once each, or one sentence. */
#include <stdlib.h>
#include <string.h>

#include "fetch/listing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_name(const char *name) {
    GR_ASSERT(name[0] && name[0] != '/' && !strstr(name, "//") && !strchr(name, '\\') && strcmp(name, "..") != 0);
    GR_ASSERT(strncmp(name, "../", 3) != 0 && !strstr(name, "/../") && name[strlen(name) - 1] != '/');
    GR_ASSERT(strlen(name) < 3 || strcmp(name + strlen(name) - 3, "/..") != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    gr_listing list = {0};
    if (gr_listing_parse("fuzz", (const char *)data, n, &list)) {
        GR_ASSERT(!list.files && grace_last_error()[0]);
        return 0;
    }
    for (int32_t i = 0; i < list.n_files; i++) {
        check_name(list.files[i].name);
        GR_ASSERT(list.files[i].size >= 0 && (strlen(list.files[i].digest) == 64 || strlen(list.files[i].digest) == 40));
        if (i) GR_ASSERT(strcmp(list.files[i - 1].name, list.files[i].name) < 0);
    }
    gr_listing_free(&list);
    return 0;
}
