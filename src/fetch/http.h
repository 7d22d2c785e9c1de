/* HTTP GET, one at a time. libcurl behind it; nobody else includes curl. */
#ifndef GR_FETCH_HTTP_H
#define GR_FETCH_HTTP_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct gr_http gr_http;

typedef struct gr_http_reply {
    long status;                    /* 200, 206, 404, ... of the last reply, redirects followed */
    int64_t first;                  /* 206: where its bytes begin; else 0 */
    double retry_after_s;           /* what the server asks for; 0: nothing */
} gr_http_reply;

/* Called with the bytes of a 200 or 206 as they come. A failure ends the transfer and is what gr_http_get() returns. */
typedef grace_status gr_http_sink(void *user, const gr_http_reply *reply, const char *bytes, size_t n);

/* token NULL: none. It goes to the scheme, host and port of `home` only, whatever a reply redirects to. Unencrypted HTTP is spoken only when
 * home does. silence_s ends a transfer in which nothing arrives. */
grace_status gr_http_open(const char *home, const char *token, double silence_s, gr_http **out);
void gr_http_close(gr_http *http);

/* first > 0: only the bytes from there on. Whatever status a whole reply has, the call succeeds; it fails with COMM when no whole reply came (trying again
 * may help), ARG (bad URL), UNSUPPORTED (redirected to another protocol or more than 8 times), or what sink returned. */
grace_status gr_http_get(gr_http *http, const char *url, int64_t first, gr_http_sink *sink, void *user, gr_http_reply *reply);

#endif
