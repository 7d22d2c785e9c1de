#include "fetch/http.h"

#include <curl/curl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/memory.h"

enum { REDIRECTS_MAX = 8, URL_MAX = 4096 };

struct gr_http {
    CURL *curl;
    CURLU *home;
    struct curl_slist *token;       /* "Authorization: Bearer ..." */
    bool plain;                     /* home is http:// */
    double silence_s;
};

typedef struct transfer {
    CURL *curl;
    gr_http_reply *reply;
    gr_http_sink *sink;
    void *user;
    grace_status st;                /* of sink */
} transfer;

/* ---- addresses ---- */

static char *part(CURLU *url, CURLUPart what) {
    char *text = NULL;
    return curl_url_get(url, what, &text, CURLU_DEFAULT_PORT) == CURLUE_OK ? text : NULL;
}

static bool same_part(CURLU *a, CURLU *b, CURLUPart what) {
    char *x = part(a, what), *y = part(b, what);
    bool same = x && y && strcasecmp(x, y) == 0;
    curl_free(x);
    curl_free(y);
    return same;
}

static bool at_home(const gr_http *http, CURLU *url) {
    return same_part(http->home, url, CURLUPART_SCHEME) && same_part(http->home, url, CURLUPART_HOST) && same_part(http->home, url, CURLUPART_PORT);
}

static bool has_scheme(CURLU *url, const char *scheme) {
    char *found = part(url, CURLUPART_SCHEME);
    bool yes = found && strcasecmp(found, scheme) == 0;
    curl_free(found);
    return yes;
}

/* ---- opening ---- */

static grace_status set_token(gr_http *http, const char *token) {
    grace_status st = GRACE_OK;
    char header[1100];
    if (!token || !*token) return st;
    GR_CHECK(strlen(token) < 1024 && strspn(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/=") == strlen(token), GRACE_ERR_ARG,
             "the token has characters a token cannot have");
    snprintf(header, sizeof header, "Authorization: Bearer %s", token);
    http->token = curl_slist_append(NULL, header);
    GR_CHECK(http->token, GRACE_ERR_MEMORY, "no memory for a header");
done:
    return st;
}

grace_status gr_http_open(const char *home, const char *token, double silence_s, gr_http **out) {
    static bool ready;
    grace_status st = GRACE_OK;
    gr_http *http = NULL;
    if (!ready) ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
    GR_CALLOC(http, 1);
    http->silence_s = silence_s;
    http->curl = curl_easy_init();
    http->home = curl_url();
    GR_CHECK(ready && http->curl && http->home, GRACE_ERR_MEMORY, "libcurl does not start");
    bool address = curl_url_set(http->home, CURLUPART_URL, home, 0) == CURLUE_OK;
    GR_CHECK(address && (has_scheme(http->home, "https") || has_scheme(http->home, "http")), GRACE_ERR_ARG,
             "'%s': expected an address like https://host", home);
    http->plain = has_scheme(http->home, "http");
    GR_TRY(set_token(http, token));
    *out = http;
    http = NULL;
done:
    gr_http_close(http);
    return st;
}

void gr_http_close(gr_http *http) {
    if (!http) return;
    curl_easy_cleanup(http->curl);
    curl_url_cleanup(http->home);
    curl_slist_free_all(http->token);
    free(http);
}

/* ---- one reply ---- */

static size_t take_header(char *line, size_t size, size_t n, void *user) {
    transfer *t = user;
    long long first;
    char text[96];
    snprintf(text, sizeof text, "%.*s", (int)(size * n), line);
    if (strncasecmp(text, "content-range:", 14) == 0 && sscanf(text + 14, " bytes %lld-", &first) == 1) t->reply->first = first;
    return size * n;
}

static size_t take_bytes(char *bytes, size_t size, size_t n, void *user) {
    transfer *t = user;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &t->reply->status);
    if (t->reply->status != 200 && t->reply->status != 206) return size * n;        /* a page that says what is wrong */
    if (t->reply->status == 200) t->reply->first = 0;
    t->st = t->sink(t->user, t->reply, bytes, size * n);
    return t->st ? 0 : size * n;
}

static void set_up(gr_http *http, CURLU *url, int64_t first, transfer *t) {
    char range[32];
    CURL *curl = http->curl;
    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_CURLU, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, http->plain ? "http,https" : "https");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "grace");
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 20L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)(http->silence_s < 1 ? 1 : http->silence_s));
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
    if (at_home(http, url)) curl_easy_setopt(curl, CURLOPT_HTTPHEADER, http->token);
    snprintf(range, sizeof range, "%lld-", (long long)first);
    if (first > 0) curl_easy_setopt(curl, CURLOPT_RANGE, range);       /* copied */
}

static grace_status perform(gr_http *http, CURLU *url, int64_t first, transfer *t) {
    grace_status st = GRACE_OK;
    char error[CURL_ERROR_SIZE] = "";
    curl_off_t wait = 0;
    *t->reply = (gr_http_reply){0};
    set_up(http, url, first, t);
    curl_easy_setopt(http->curl, CURLOPT_ERRORBUFFER, error);
    CURLcode code = curl_easy_perform(http->curl);
    curl_easy_setopt(http->curl, CURLOPT_ERRORBUFFER, NULL);
    if (t->st) return t->st;
    GR_CHECK(code != CURLE_UNSUPPORTED_PROTOCOL && code != CURLE_URL_MALFORMAT, GRACE_ERR_UNSUPPORTED, "%s", error[0] ? error : curl_easy_strerror(code));
    GR_CHECK(code == CURLE_OK, GRACE_ERR_COMM, "%s", error[0] ? error : curl_easy_strerror(code));
    curl_easy_getinfo(http->curl, CURLINFO_RESPONSE_CODE, &t->reply->status);
    if (curl_easy_getinfo(http->curl, CURLINFO_RETRY_AFTER, &wait) == CURLE_OK) t->reply->retry_after_s = (double)wait;
done:
    return st;
}

grace_status gr_http_get(gr_http *http, const char *url, int64_t first, gr_http_sink *sink, void *user, gr_http_reply *reply) {
    grace_status st = GRACE_OK;
    CURLU *at = curl_url();
    const char *next = NULL;
    transfer t = {.curl = http->curl, .reply = reply, .sink = sink, .user = user};
    GR_CHECK(at, GRACE_ERR_MEMORY, "no memory for an address");
    GR_CHECK(strlen(url) < URL_MAX && curl_url_set(at, CURLUPART_URL, url, 0) == CURLUE_OK, GRACE_ERR_ARG, "'%.200s' is no address", url);
    for (int n = 0;; n++) {
        GR_TRY(perform(http, at, first, &t));
        if (reply->status < 300 || reply->status > 399 || reply->status == 304) break;
        char *to = NULL;
        curl_easy_getinfo(http->curl, CURLINFO_REDIRECT_URL, &to);
        GR_CHECK(n < REDIRECTS_MAX, GRACE_ERR_UNSUPPORTED, "redirected more than %d times", REDIRECTS_MAX);
        next = to;
        GR_CHECK(next && strlen(next) < URL_MAX && curl_url_set(at, CURLUPART_URL, next, 0) == CURLUE_OK, GRACE_ERR_UNSUPPORTED,
                 "status %ld leads to no address", reply->status);
        GR_CHECK(has_scheme(at, "https") || (http->plain && has_scheme(at, "http")), GRACE_ERR_UNSUPPORTED, "redirected to '%.200s': expected https", next);
    }
done:
    curl_url_cleanup(at);
    return st;
}
