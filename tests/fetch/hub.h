/* A model hub on 127.0.0.1 that misbehaves on demand: one thread, one request at a time, two ports (the second plays the other host). */
#ifndef GR_TESTS_FETCH_HUB_H
#define GR_TESTS_FETCH_HUB_H
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fetch/digest.h"

#define COMMIT "0123456789abcdef0123456789abcdef01234567"
#define BIG_BYTES 300000

typedef enum misbehaviour {
    WELL,               /* listing, files, ranges */
    CUT,                /* every file reply ends after 100,000 bytes of what it announced */
    CUT_AT_ONCE,        /* no byte comes at all, ever */
    STALL,              /* file replies stop after 100,000 bytes and wait until the client is gone */
    SHORT,              /* a whole reply of fewer bytes than listed, ever */
    LONG,               /* more bytes than listed */
    BUSY,               /* the first two replies of each kind: 429 and 503 */
    BUSY_A_SECOND,      /* the first file reply: 503, Retry-After: 1 */
    BUSY_FOREVER,       /* 503 */
    BUSY_FOR_DAYS,      /* 429, Retry-After: 200000 */
    REDIRECT,           /* files are on the other port */
    REDIRECT_LOOP, REDIRECT_TO_FILE,
    WRONG_BYTE,         /* one byte of the large file is another */
    NO_RANGES,          /* 200 with everything, whatever is asked for */
    CUT_NO_RANGES,      /* the same, and every reply ends after 100,000 bytes */
    WRONG_RANGE,        /* 206 from one byte further than asked */
    RANGE_REFUSED,      /* 416 to any range */
    MISSING,            /* 404 for files */
    CLOSED              /* 401 for everything without the token "secret" */
} misbehaviour;

static struct hub {
    int socket[2], port[2], stop[2];
    pthread_t thread;
    misbehaviour how;
    const char *siblings;               /* JSON instead of the usual list */
    int n_listings, n_files, n_ranges;  /* replies */
    bool token_seen_elsewhere, token_seen_at_home;
    char big[BIG_BYTES], big_sha256[GR_DIGEST_MAX], config_sha1[GR_DIGEST_MAX], url[64];
} hub;

static const char hub_config[] = "{\"model_type\": \"x\"}\n";

static void hub_send(int to, const char *bytes, size_t n) {
    while (n > 0) {
        ssize_t sent = send(to, bytes, n, MSG_NOSIGNAL);
        if (sent <= 0) return;
        bytes += sent, n -= (size_t)sent;
    }
}

static void hub_reply(int to, const char *status, const char *headers, const char *body, size_t n_announced, size_t n_sent) {
    char head[512];
    int n = snprintf(head, sizeof head, "HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %zu\r\n%s\r\n", status, n_announced, headers);
    hub_send(to, head, (size_t)n);
    hub_send(to, body, n_sent);
}

static void hub_say(int to, const char *status, const char *headers) { hub_reply(to, status, headers, "no", 2, 2); }

static void hub_list(int to) {
    char body[1024];
    int n;
    hub.n_listings++;
    if (hub.siblings) n = snprintf(body, sizeof body, "{\"sha\": \"" COMMIT "\", \"siblings\": %s}", hub.siblings);
    else n = snprintf(body, sizeof body, "{\"sha\": \"" COMMIT "\", \"siblings\": [{\"rfilename\": \"config.json\", \"size\": %zu, \"blobId\": \"%s\"},"
                      "{\"rfilename\": \"pytorch_model.bin\", \"size\": 5, \"blobId\": \"%s\"},"
                      "{\"rfilename\": \"sub dir/big.safetensors\", \"size\": %d, \"blobId\": \"%s\", \"lfs\": {\"sha256\": \"%s\", \"size\": %d}}]}",
                      strlen(hub_config), hub.config_sha1, hub.config_sha1, BIG_BYTES, hub.config_sha1, hub.big_sha256, BIG_BYTES);
    hub_reply(to, "200 OK", "", body, (size_t)n, (size_t)n);
}

static void hub_stall(int to, const char *status, const char *headers, const char *body, size_t n) {
    char ignored[64];
    hub_reply(to, status, headers, body, n, n < 100000 ? n : 100000);
    while (recv(to, ignored, sizeof ignored, 0) > 0) {}
}

static void hub_send_file(int to, const char *request, const char *body, size_t n_body, bool big) {
    const char *asked = strstr(request, "Range: bytes=");
    size_t first = asked && hub.how != NO_RANGES && hub.how != CUT_NO_RANGES ? (size_t)atoll(asked + 13) : 0, n = n_body - first;
    char headers[128] = "";
    char *changed = NULL;
    hub.n_files++;
    hub.n_ranges += asked != NULL;
    if (asked && hub.how == RANGE_REFUSED) {
        hub_say(to, "416 No", "");
        return;
    }
    if (first > 0) snprintf(headers, sizeof headers, "Content-Range: bytes %zu-%zu/%zu\r\n", first + (hub.how == WRONG_RANGE), n_body - 1, n_body);
    if (big && hub.how == WRONG_BYTE) {
        changed = malloc(n_body);
        memcpy(changed, body, n_body);
        changed[n_body - 7] ^= 1;
        body = changed;
    }
    const char *status = first > 0 ? "206 Partial Content" : "200 OK";
    if (big && hub.how == STALL) hub_stall(to, status, headers, body + first, n);
    else if (big && (hub.how == CUT || hub.how == CUT_NO_RANGES)) hub_reply(to, status, headers, body + first, n, n < 100000 ? n : 100000);
    else if (big && hub.how == CUT_AT_ONCE) hub_reply(to, status, headers, body, n, 0);
    else if (big && hub.how == SHORT) hub_reply(to, status, headers, body + first, first ? 0 : n / 2, first ? 0 : n / 2);
    else hub_reply(to, status, headers, body + first, n, n);
    if (big && hub.how == LONG) hub_send(to, "x", 1);
    free(changed);
}

static void hub_file(int to, const char *request, int port) {
    char where[128];
    if (hub.how == BUSY && hub.n_files < 2) {
        hub_say(to, hub.n_files++ ? "503 Busy" : "429 Slow", "");
        return;
    }
    if (hub.how == BUSY_A_SECOND && hub.n_files++ == 0) {
        hub_say(to, "503 Busy", "Retry-After: 1\r\n");
        return;
    }
    snprintf(where, sizeof where, "Location: %s://127.0.0.1:%d/moved%.60s\r\n", "http", hub.port[1],
             strstr(request, "config") ? "/config.json" : "/sub%20dir/big.safetensors");
    if (hub.how == REDIRECT_LOOP) snprintf(where, sizeof where, "Location: /m/x/resolve/again\r\n");
    if (hub.how == REDIRECT_TO_FILE) snprintf(where, sizeof where, "Location: file:///etc/passwd\r\n");
    bool moves = hub.how == REDIRECT_LOOP || hub.how == REDIRECT_TO_FILE || (hub.how == REDIRECT && port == 0);
    if (moves) hub_say(to, "302 Found", where);
    else if (hub.how == MISSING) hub_say(to, "404 Not Found", "");
    else if (hub.how == BUSY_FOR_DAYS) hub_say(to, "429 Slow", "Retry-After: 200000\r\n");
    else if (hub.how == BUSY_FOREVER) hub_say(to, "503 Busy", "");
    else if (strstr(request, "/config.json ")) hub_send_file(to, request, hub_config, strlen(hub_config), false);
    else if (hub.how == LONG && strstr(request, "big")) hub_reply(to, "200 OK", "", hub.big, BIG_BYTES + 1, BIG_BYTES), hub_send(to, "x", 1);
    else if (strstr(request, "/sub%20dir/big.safetensors ")) hub_send_file(to, request, hub.big, BIG_BYTES, true);
    else hub_say(to, "404 Not Found", "");
}

static void hub_answer(int to, int port) {
    char request[4096] = "";
    size_t n = 0;
    while (n + 1 < sizeof request && !strstr(request, "\r\n\r\n")) {
        ssize_t got = recv(to, request + n, sizeof request - 1 - n, 0);
        if (got <= 0) return;
        n += (size_t)got;
        request[n] = 0;
    }
    bool token = strstr(request, "Authorization: Bearer secret\r\n") != NULL;
    *(port ? &hub.token_seen_elsewhere : &hub.token_seen_at_home) |= token;
    if (hub.how == CLOSED && !token) hub_say(to, "401 Unauthorized", "");
    else if (strstr(request, "GET /api/models/m/x/revision/v%2F1?blobs=true ")) hub_list(to);
    else if (strstr(request, "/api/")) hub_say(to, "404 Not Found", "");
    else hub_file(to, request, port);
}

static void *hub_run(void *unused) {
    struct pollfd all[3] = {{hub.socket[0], POLLIN, 0}, {hub.socket[1], POLLIN, 0}, {hub.stop[0], POLLIN, 0}};
    (void)unused;
    while (poll(all, 3, -1) > 0 && !all[2].revents)
        for (int i = 0; i < 2; i++) {
            int to = all[i].revents ? accept(all[i].fd, NULL, NULL) : -1;
            if (to < 0) continue;
            hub_answer(to, i);
            shutdown(to, SHUT_WR);
            close(to);
        }
    return NULL;
}

static void hub_digest(const void *bytes, size_t n, const char *like, char *out) {
    int fd = memfd_create("hub", 0);
    if (fd < 0 || write(fd, bytes, n) != (ssize_t)n || gr_digest_file(fd, like, out)) abort();
    close(fd);
}

static int hub_start(void **state) {
    (void)state;
    for (int i = 0; i < BIG_BYTES; i++) hub.big[i] = (char)(i * 2654435761u >> 13);
    hub_digest(hub.big, BIG_BYTES, "0000000000000000000000000000000000000000000000000000000000000000", hub.big_sha256);
    hub_digest(hub_config, strlen(hub_config), COMMIT, hub.config_sha1);
    for (int i = 0; i < 2; i++) {
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t n = sizeof at;
        hub.socket[i] = socket(AF_INET, SOCK_STREAM, 0);
        if (bind(hub.socket[i], (struct sockaddr *)&at, n) || listen(hub.socket[i], 8) || getsockname(hub.socket[i], (struct sockaddr *)&at, &n)) return -1;
        hub.port[i] = ntohs(at.sin_port);
    }
    setenv("no_proxy", "127.0.0.1", 1);         /* whatever the machine is told of proxies */
    snprintf(hub.url, sizeof hub.url, "http://127.0.0.1:%d/", hub.port[0]);
    return pipe(hub.stop) || pthread_create(&hub.thread, NULL, hub_run, NULL);
}

static int hub_end(void **state) {
    (void)state;
    if (write(hub.stop[1], "x", 1) != 1) return -1;
    pthread_join(hub.thread, NULL);
    for (int i = 0; i < 2; i++) close(hub.socket[i]), close(hub.stop[i]);
    return 0;
}

#endif
