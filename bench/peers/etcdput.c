/*
 * etcdput - a minimal gRPC-over-HTTP/2 load client for etcd v3 KV.Put and KV.Range.
 *
 * Usage: gcc -O2 -static -o etcdput etcdput.c
 *        etcdput IP:PORT [IP:PORT..] [-c conns] [-s streams-per-conn] [-t secs] [-v value-bytes] [-g]
 *   -g  Range (linearizable get) instead of Put
 * Prints one JSON object: ops/s, p50/p99 latency, errors, own CPU seconds. One epoll thread.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
#define MAXS 4096
struct st { uint64_t t0; int data; };
struct cn {
    int fd, rl, ol, open, dead; uint32_t next; int64_t win; uint32_t unack;
    unsigned char rb[1 << 17], ob[1 << 18]; struct st s[MAXS];       /* slot = (id/2) % MAXS */
};
static uint64_t *lat, nlat, caplat, errs;
static int streams = 16, vsize = 256, get;
static unsigned char hdr[256];
static int hl;
static void lit(int idx, const char *v) {
    if (idx < 15) hdr[hl++] = idx; else { hdr[hl++] = 0x0f; hdr[hl++] = idx - 15; }
    hdr[hl++] = strlen(v); memcpy(hdr + hl, v, strlen(v)); hl += strlen(v);
}
static void frame(struct cn *c, int len, int type, int flags, uint32_t id) {
    unsigned char *p = c->ob + c->ol;
    p[0] = len >> 16; p[1] = len >> 8; p[2] = len; p[3] = type; p[4] = flags;
    p[5] = id >> 24; p[6] = id >> 16; p[7] = id >> 8; p[8] = id; c->ol += 9;
}
static int vint(unsigned char *p, uint64_t v) { int n = 0; while (v > 127) { p[n++] = v | 128; v >>= 7; } p[n++] = v; return n; }
static void flushc(struct cn *c) {
    int o = 0;
    while (o < c->ol) {
        int r = send(c->fd, c->ob + o, c->ol - o, MSG_NOSIGNAL);
        if (r < 0 && errno == EAGAIN) { struct pollfd f = {c->fd, POLLOUT, 0}; poll(&f, 1, 1000); continue; }
        if (r <= 0) { c->dead = 1; break; }
        o += r;
    }
    c->ol = 0;
}
static uint64_t seq;
static int start_op(struct cn *c) {
    unsigned char m[8192]; int n = 5; char key[32];
    int kl = snprintf(key, sizeof key, "/bench/%010lu", (unsigned long)(seq++ % 100000));
    m[n++] = 0x0a; n += vint(m + n, kl); memcpy(m + n, key, kl); n += kl;
    if (!get) { m[n++] = 0x12; n += vint(m + n, vsize); memset(m + n, 'x', vsize); n += vsize; }
    int pl = n - 5; m[0] = 0; m[1] = pl >> 24; m[2] = pl >> 16; m[3] = pl >> 8; m[4] = pl;
    if (c->win < n || c->ol + hl + n + 64 > (int)sizeof c->ob) return 0;
    uint32_t id = c->next; c->next += 2;
    frame(c, hl, 1, 4, id); memcpy(c->ob + c->ol, hdr, hl); c->ol += hl;
    frame(c, n, 0, 1, id); memcpy(c->ob + c->ol, m, n); c->ol += n;
    c->win -= n; c->open++;
    struct st *s = &c->s[(id / 2) % MAXS]; s->t0 = now_ns(); s->data = 0;
    return 1;
}
static void done(struct cn *c, uint32_t id, int ok) {
    struct st *s = &c->s[(id / 2) % MAXS]; c->open--;
    if (!ok || !s->data) { errs++; return; }
    if (nlat == caplat) lat = realloc(lat, (caplat = caplat ? caplat * 2 : 65536) * 8);
    lat[nlat++] = now_ns() - s->t0;
}
static void input(struct cn *c) {
    int r = recv(c->fd, c->rb + c->rl, sizeof c->rb - c->rl, 0);
    if (r < 0 && errno == EAGAIN) return;
    if (r <= 0) { c->dead = 1; return; }
    c->rl += r;
    int o = 0;
    while (c->rl - o >= 9) {
        unsigned char *p = c->rb + o; int len = p[0] << 16 | p[1] << 8 | p[2], type = p[3], fl = p[4];
        uint32_t id = (p[5] & 127u) << 24 | p[6] << 16 | p[7] << 8 | p[8];
        if (c->rl - o < 9 + len) break;
        unsigned char *d = p + 9;
        if (type == 0) {
            c->s[(id / 2) % MAXS].data += len; c->unack += len;
            if (c->unack > 16384) {
                frame(c, 4, 8, 0, 0); unsigned char *q = c->ob + c->ol;
                q[0] = c->unack >> 24; q[1] = c->unack >> 16; q[2] = c->unack >> 8; q[3] = c->unack; c->ol += 4; c->unack = 0;
            }
            if (fl & 1) done(c, id, 1);
        } else if (type == 1) { if (fl & 1) done(c, id, 1); }
        else if (type == 3) done(c, id, 0);
        else if (type == 4 && !(fl & 1)) frame(c, 0, 4, 1, 0);
        else if (type == 6 && !(fl & 1)) { frame(c, 8, 6, 1, 0); memcpy(c->ob + c->ol, d, 8); c->ol += 8; }
        else if (type == 7) c->dead = 1;
        else if (type == 8 && id == 0) c->win += (d[0] & 127u) << 24 | d[1] << 16 | d[2] << 8 | d[3];
        o += 9 + len;
    }
    memmove(c->rb, c->rb + o, c->rl - o); c->rl -= o;
}
static int cmp(const void *a, const void *b) { uint64_t x = *(uint64_t *)a, y = *(uint64_t *)b; return x < y ? -1 : x > y; }
int main(int ac, char **av) {
    char *ep_[16]; int ne = 0, conns = 4, o; double secs = 5;
    while (ne < 16 && 1 + ne < ac && strchr(av[1 + ne], ':')) { ep_[ne] = av[1 + ne]; ne++; }
    if (!ne) { fprintf(stderr, "see the header for usage\n"); return 2; }
    optind = 1 + ne;
    while ((o = getopt(ac, av, "c:s:t:v:g")) != -1) switch (o) {
        case 'c': conns = atoi(optarg); break; case 's': streams = atoi(optarg); break; case 't': secs = atof(optarg); break;
        case 'v': vsize = atoi(optarg); break; case 'g': get = 1; break; default: return 2; }
    if (vsize > 4096) vsize = 4096; if (streams > 1024) streams = 1024;
    hdr[hl++] = 0x83; hdr[hl++] = 0x86;
    lit(4, get ? "/etcdserverpb.KV/Range" : "/etcdserverpb.KV/Put"); lit(1, "localhost"); lit(31, "application/grpc");
    hdr[hl++] = 0; hdr[hl++] = 2; memcpy(hdr + hl, "te", 2); hl += 2; hdr[hl++] = 8; memcpy(hdr + hl, "trailers", 8); hl += 8;
    int ep = epoll_create1(0), alive = 0;
    struct cn **cs = calloc(conns, sizeof *cs);
    for (int i = 0; i < conns; i++) {
        struct cn *c = cs[i] = calloc(1, sizeof *c); char ip[64];
        snprintf(ip, sizeof ip, "%s", ep_[i % ne]); char *col = strchr(ip, ':'); *col = 0;
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(col + 1))}; inet_pton(AF_INET, ip, &a.sin_addr);
        c->fd = socket(AF_INET, SOCK_STREAM, 0); int one = 1; setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (connect(c->fd, (void *)&a, sizeof a)) { perror("connect"); return 1; }
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        memcpy(c->ob, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24); c->ol = 24; frame(c, 0, 4, 0, 0);
        c->next = 1; c->win = 65535;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c}; epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e); alive++;
    }
    uint64_t t0 = now_ns(), end = t0 + (uint64_t)(secs * 1e9);
    for (int i = 0; i < conns; i++) { while (cs[i]->open < streams && start_op(cs[i])); flushc(cs[i]); }
    struct epoll_event ev[64];
    while (now_ns() < end && alive) {
        int n = epoll_wait(ep, ev, 64, 100);
        for (int i = 0; i < n; i++) {
            struct cn *c = ev[i].data.ptr;
            input(c);
            if (!c->dead) { while (c->open < streams && start_op(c)); flushc(c); }
            if (c->dead) { errs += c->open; epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL); close(c->fd); alive--; }
        }
    }
    double el = (now_ns() - t0) / 1e9;
    qsort(lat, nlat, 8, cmp);
    #define P(q) (nlat ? lat[(uint64_t)((nlat - 1) * q)] / 1e3 : 0)
    printf("{\"mode\":\"%s\",\"ops\":%lu,\"errors\":%lu,\"secs\":%.3f,\"rate\":%.1f,"
           "\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f,\"conns_alive\":%d,\"cpu_s\":%.4f}\n",
           get ? "range" : "put", nlat, errs, el, nlat / el, P(.5), P(.99), P(1.0), alive,
           clock() / (double)CLOCKS_PER_SEC);
    return nlat ? 0 : 1;
}
