#include "fetch/pull.h"

#include <ctype.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "fetch/http.h"
#include "fetch/listing.h"
#include "fetch/place.h"

enum { LISTING_BYTES_MAX = 64 << 20 };

typedef struct job {
    const gr_pull_options *opt;
    gr_http *http;
    gr_listing list;
    gr_pull_result result;
    int64_t n_done, n_total;        /* bytes of all files */
} job;

gr_pull_options gr_pull_defaults(void) {
    return (gr_pull_options){.revision = "main", .endpoint = "https://huggingface.co", .n_tries = 6, .wait_max_s = 300, .silence_s = 30};
}

static void note(const job *j, const char *format, const char *a, const char *b) {
    char text[512];
    if (!j->opt->on_note) return;
    snprintf(text, sizeof text, format, a, b);
    j->opt->on_note(j->opt->user, text);
}

/* ---- addresses ---- */

static grace_status check_repo(const char *repo) {
    const char *slash = strchr(repo, '/');
    bool good = slash && slash > repo && slash[1] && !strchr(slash + 1, '/') && strlen(repo) < 200 && !strstr(repo, "..") && repo[0] != '.' && slash[1] != '.';
    for (const char *c = repo; *c && good; c++) good = isalnum((unsigned char)*c) || strchr("-_./", *c);
    return good ? GRACE_OK : gr_fail(GRACE_ERR_ARG, "'%.200s': expected ORG/NAME", repo);
}

/* Appends text with everything but plain characters (and '/', if kept) as %XX. */
static grace_status append_escaped(gr_buf *out, const char *text, bool keep_slash) {
    grace_status st = GRACE_OK;
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        bool plain = isalnum(*c) || strchr("-_.~", *c) || (keep_slash && *c == '/');
        GR_TRY(plain ? gr_buf_append(out, c, 1) : gr_buf_printf(out, "%%%02X", *c));
    }
done:
    return st;
}

/* endpoint without its last '/', then "/a/b". */
static grace_status begin_address(const job *j, gr_buf *out, const char *prefix, const char *middle) {
    size_t n = strlen(j->opt->endpoint);
    while (n > 0 && j->opt->endpoint[n - 1] == '/') n--;
    return gr_buf_printf(out, "%.*s%s/%s/%s/", (int)n, j->opt->endpoint, prefix, j->opt->repo, middle);
}

/* ---- trying again ---- */

typedef struct patience { int32_t n_failed; } patience;

static void pause_for(double seconds) {
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&t, &t) && errno == EINTR) {}
}

static bool is_passing(long status) { return status == 408 || status == 429 || (status >= 500 && status <= 599); }

/* After a failed try: pauses as the server asks or a little longer each time; or gives up with the sentence of the last failure. */
static grace_status wait_to_retry(const job *j, patience *p, const char *name, const gr_http_reply *reply, grace_status failure) {
    grace_status st = GRACE_OK;
    char reason[256], pause[320];
    double seconds = reply->retry_after_s > 0 ? reply->retry_after_s : p->n_failed == 0 ? 0.05 : (double)(1 << (p->n_failed < 6 ? p->n_failed - 1 : 5));
    if (failure) snprintf(reason, sizeof reason, "%s", grace_last_error());
    else snprintf(reason, sizeof reason, "the server says %ld", reply->status);
    GR_CHECK(++p->n_failed < j->opt->n_tries, GRACE_ERR_COMM, "%s: %s, %d times without progress", name, reason, p->n_failed);
    GR_CHECK(seconds <= j->opt->wait_max_s, GRACE_ERR_COMM, "%s: %s and asks to wait %.0f s, at most %.0f are waited", name, reason, seconds,
             j->opt->wait_max_s);
    snprintf(pause, sizeof pause, "%s, again in %.3g s", reason, seconds);
    note(j, "%s: %s", name, pause);
    pause_for(seconds);
done:
    return st;
}

static grace_status refusal(const job *j, const char *name, long status) {
    const char *closed = j->opt->token ? ": the token in HF_TOKEN does not open it" : ": it needs a token in HF_TOKEN, or is not there";
    const char *why = status == 401 || status == 403 ? closed : status == 404 ? ": there is no such repository, revision or file" : "";
    return gr_fail(GRACE_ERR_MISMATCH, "%s: the server says %ld%s", name, status, why);
}

/* ---- the listing ---- */

static grace_status keep_listing(void *user, const gr_http_reply *reply, const char *bytes, size_t n) {
    gr_buf *text = user;
    (void)reply;
    if (n > LISTING_BYTES_MAX || text->n > LISTING_BYTES_MAX - n) return gr_fail(GRACE_ERR_LIMIT, "the listing is longer than %d bytes", LISTING_BYTES_MAX);
    return gr_buf_append(text, bytes, n);
}

static grace_status fetch_listing(job *j) {
    grace_status st = GRACE_OK;
    gr_buf address = {0}, text = {0};
    gr_http_reply reply = {0};
    patience p = {0};
    GR_TRY(begin_address(j, &address, "/api/models", "revision"));
    GR_TRY(append_escaped(&address, j->opt->revision, false));
    GR_TRY(gr_buf_printf(&address, "?blobs=true"));
    for (;;) {
        text.n = 0;
        st = gr_http_get(j->http, address.data, 0, keep_listing, &text, &reply);
        if (st && st != GRACE_ERR_COMM) goto done;
        if (!st && !is_passing(reply.status)) break;
        GR_TRY(wait_to_retry(j, &p, j->opt->repo, &reply, st));
    }
    if (reply.status != 200) GR_TRY(refusal(j, j->opt->repo, reply.status));
    GR_TRY(gr_listing_parse(j->opt->repo, text.data ? text.data : "", text.n, &j->list));
done:
    gr_buf_free(&address);
    gr_buf_free(&text);
    return st;
}

static bool is_safetensors(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot && strcmp(dot, ".safetensors") == 0;
}

static bool matches_any(const char *name, const char *const *patterns, int32_t n) {
    for (int32_t i = 0; i < n; i++)
        if (fnmatch(patterns[i], name, 0) == 0) return true;
    return false;
}

static bool is_wanted(const gr_pull_options *opt, const char *name) {
    return (opt->n_include == 0 || matches_any(name, opt->include, opt->n_include)) && !matches_any(name, opt->exclude, opt->n_exclude);
}

static grace_status choose_files(job *j) {
    grace_status st = GRACE_OK;
    bool safe = false;
    const char *example = "";
    for (int32_t i = 0; i < j->list.n_files; i++) {
        const gr_listed *f = &j->list.files[i];
        safe |= is_safetensors(f->name);
        if (!is_wanted(j->opt, f->name)) j->result.n_left_out++;
        else if (f->pickled) example = f->name, j->result.n_refused++;
        else j->n_total += f->size;
    }
    GR_CHECK(j->result.n_left_out == 0 || j->result.n_left_out < j->list.n_files, GRACE_ERR_ARG, "%s: none of its %d files has a name that is wanted",
             j->opt->repo, j->list.n_files);
    GR_CHECK(safe || j->result.n_refused == 0, GRACE_ERR_UNSUPPORTED,
             "%s has no safetensors, only pickled weights such as %s, which run code when they are read: refused", j->opt->repo, example);
    for (int32_t i = 0; i < j->list.n_files; i++)
        if (j->list.files[i].pickled && is_wanted(j->opt, j->list.files[i].name)) note(j, "%s: pickled, refused%s", j->list.files[i].name, "");
done:
    return st;
}

/* ---- one file ---- */

typedef struct sink { job *j; int fd; const char *name; int64_t at, size; bool begun; int64_t n_new; } sink;

/* A 206 goes on where the file ends; a 200 begins again. */
static grace_status place_bytes(sink *s, const gr_http_reply *reply) {
    grace_status st = GRACE_OK;
    GR_CHECK(reply->first == 0 || reply->first == s->at, GRACE_ERR_FORMAT, "%s: asked for bytes from %lld, got them from %lld", s->name,
             (long long)s->at, (long long)reply->first);
    if (reply->first == 0 && s->at > 0) {
        GR_CHECK(ftruncate(s->fd, 0) == 0, GRACE_ERR_IO, "%s: %s", s->name, strerror(errno));
        s->j->n_done -= s->at;
        s->at = 0;
    }
    s->begun = true;
done:
    return st;
}

static grace_status keep_bytes(void *user, const gr_http_reply *reply, const char *bytes, size_t n) {
    grace_status st = GRACE_OK;
    sink *s = user;
    if (!s->begun) GR_TRY(place_bytes(s, reply));
    GR_CHECK((int64_t)n <= s->size - s->at, GRACE_ERR_FORMAT, "%s: the server sends more than the %lld bytes it lists", s->name, (long long)s->size);
    while (n > 0) {
        ssize_t done = pwrite(s->fd, bytes, n, s->at);
        if (done < 0 && errno == EINTR) continue;
        GR_CHECK(done > 0, GRACE_ERR_IO, "%s: cannot write: %s", s->name, strerror(errno));
        bytes += done;
        n -= (size_t)done;
        s->at += done;
        s->n_new += done;
        s->j->n_done += done;
    }
    if (s->j->opt->on_bytes) s->j->opt->on_bytes(s->j->opt->user, s->j->n_done, s->j->n_total);
done:
    return st;
}

/* Until the partial file has its size; each try goes on where the last one ended, or begins again where the server wants that: progress is what goes
 * beyond what all tries before had. */
static grace_status complete(job *j, const char *address, sink *s) {
    grace_status st = GRACE_OK;
    patience p = {0};
    int64_t most = s->at;
    while (s->at < s->size) {
        gr_http_reply reply = {0};
        s->begun = false;
        st = gr_http_get(j->http, address, s->at, keep_bytes, s, &reply);
        if (st && st != GRACE_ERR_COMM) goto done;
        if (s->at > most) p.n_failed = 0, most = s->at;
        if (s->at == s->size) break;
        if (!st && reply.status == 416) {          /* nothing to go on from, says the server: from the beginning */
            GR_CHECK(s->at > 0, GRACE_ERR_MISMATCH, "%s: the server says 416", s->name);
            GR_CHECK(ftruncate(s->fd, 0) == 0, GRACE_ERR_IO, "%s: %s", s->name, strerror(errno));
            j->n_done -= s->at;
            s->at = 0;
        } else if (!st && reply.status != 200 && reply.status != 206 && !is_passing(reply.status)) {
            GR_TRY(refusal(j, s->name, reply.status));
        }
        if (!st && (reply.status == 200 || reply.status == 206))
            st = gr_fail(GRACE_ERR_COMM, "the server sends %lld of the %lld bytes it lists", (long long)s->at, (long long)s->size);
        GR_TRY(wait_to_retry(j, &p, s->name, &reply, st));
    }
    st = GRACE_OK;
done:
    j->result.n_bytes += s->n_new;
    s->n_new = 0;
    return st;
}

static grace_status matches(int fd, const gr_listed *file, bool *out) {
    char digest[GR_DIGEST_MAX];
    off_t size = lseek(fd, 0, SEEK_END);
    *out = false;
    if (size != file->size) return GRACE_OK;
    grace_status st = gr_digest_file(fd, file->digest, digest);
    *out = !st && strcmp(digest, file->digest) == 0;
    return st;
}

/* What an earlier call left goes on; a wrong checksum behind it has one more try from the beginning, a fresh one has none. */
static grace_status download(job *j, const gr_listed *file, const char *address, const gr_place *place) {
    grace_status st = GRACE_OK;
    int fd = -1;
    bool good = false;
    GR_TRY(gr_place_partial(place, &fd));
    sink s = {.j = j, .fd = fd, .name = file->name, .at = lseek(fd, 0, SEEK_END), .size = file->size};
    bool resumed = s.at > 0 && s.at <= s.size;
    if (!resumed) s.at = 0;
    GR_CHECK(ftruncate(fd, s.at) == 0, GRACE_ERR_IO, "%s: %s", place->partial, strerror(errno));
    j->n_done += s.at;
    GR_TRY(complete(j, address, &s));
    GR_TRY(matches(fd, file, &good));
    if (!good && resumed) {
        note(j, "%s: what was there before does not belong to it%s", file->name, "");
        GR_CHECK(ftruncate(fd, 0) == 0, GRACE_ERR_IO, "%s: %s", place->partial, strerror(errno));
        j->n_done -= s.at;
        s.at = 0;
        GR_TRY(complete(j, address, &s));
        GR_TRY(matches(fd, file, &good));
    }
    if (!good) unlinkat(place->dir, place->partial, 0);
    GR_CHECK(good, GRACE_ERR_FORMAT, "%s: the checksum is not the listed one, %s", file->name, file->digest);
    GR_TRY(gr_place_finish(place, fd));
done:
    if (fd >= 0) close(fd);
    return st;
}

static grace_status pull_file(job *j, const gr_listed *file) {
    grace_status st = GRACE_OK;
    gr_place place = {.dir = -1};
    gr_buf address = {0};
    int fd = -1;
    bool there = false;
    GR_TRY(gr_place_open(j->opt->dir, file->name, &place));
    GR_TRY(gr_place_existing(&place, &fd));
    if (fd >= 0) GR_TRY(matches(fd, file, &there));
    if (there) {
        j->result.n_kept++;
        j->n_done += file->size;
    } else {
        GR_TRY(begin_address(j, &address, "", "resolve"));
        GR_TRY(gr_buf_printf(&address, "%s/", j->list.commit));
        GR_TRY(append_escaped(&address, file->name, true));
        GR_TRY(download(j, file, address.data, &place));
    }
    j->result.n_files++;
done:
    if (fd >= 0) close(fd);
    if (place.dir >= 0) gr_place_close(&place);
    gr_buf_free(&address);
    return st;
}

grace_status gr_pull(const gr_pull_options *opt, gr_pull_result *out) {
    grace_status st = GRACE_OK;
    job j = {.opt = opt};
    GR_TRY(check_repo(opt->repo));
    GR_CHECK(opt->revision[0] && strlen(opt->revision) < 256, GRACE_ERR_ARG, "'%.100s': expected a branch, tag or commit", opt->revision);
    GR_TRY(gr_http_open(opt->endpoint, opt->token, opt->silence_s, &j.http));
    GR_TRY(fetch_listing(&j));
    GR_TRY(choose_files(&j));
    for (int32_t i = 0; i < j.list.n_files; i++)
        if (!j.list.files[i].pickled && is_wanted(opt, j.list.files[i].name)) GR_TRY(pull_file(&j, &j.list.files[i]));
    memcpy(j.result.commit, j.list.commit, sizeof j.result.commit);
    *out = j.result;
done:
    gr_http_close(j.http);
    gr_listing_free(&j.list);
    return st;
}
