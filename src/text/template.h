/* Chat templates: the part of Jinja that released models use, with Python's meaning of values; docs/chat.md lists it.
 * A template is parsed once into a tree and rendered any number of times, each within fixed bounds of time and memory. */
#ifndef GR_TEXT_TEMPLATE_H
#define GR_TEXT_TEMPLATE_H
#include <stdint.h>
#include <time.h>

#include "base/json.h"
#include "base/memory.h"

typedef struct gr_template gr_template;

typedef struct gr_template_limits {
    int64_t n_steps;                /* nodes evaluated, and one more for every 64 bytes or 8 values an operation walks over */
    size_t n_bytes;                 /* of values made on the way */
    size_t n_output;                /* bytes of text, finished or in the making */
} gr_template_limits;

gr_template_limits gr_template_limits_default(void);

/* text [n] is valid UTF-8; where names it in messages. Fails with FORMAT ("WHERE: line 3: expected 'endif', found ..."), UNSUPPORTED (a tag,
 * filter or test that is not there), LIMIT (nesting). The caller frees. */
grace_status gr_template_parse(const char *where, const char *text, size_t n, gr_template **out);
void gr_template_free(gr_template *tmpl);               /* accepts NULL */

/* Appends to out. variables is an object; now is what strftime_now() tells, in local time. Fails with FORMAT (a value of the wrong type, and
 * what the template itself raises), UNSUPPORTED, LIMIT; messages name the line. out keeps what it had. */
grace_status gr_template_render(const gr_template *tmpl, const gr_json *variables, const gr_template_limits *limits, time_t now, gr_buf *out);

#endif
