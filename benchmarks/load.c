/* A load of HTTP/1.1 over keep-alive connections, on one thread and epoll; made to cost far less than any server in Python.
 *
 *     load HOST PORT CONNECTIONS WARM_UP_S SECONDS RATE REQUEST_FILE...
 *
 * Each file holds one whole request, head and body; they are sent in turn. RATE 0: a closed loop, every connection sends
 * when it has its answer. Otherwise an open loop: requests are due at the moments of a Poisson process, and latency counts
 * from that moment, whether or not a connection was free (no coordinated omission). Prints one JSON object.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_BYTES = 16384, STATUSES = 600, EVENTS = 512, BROKEN = 0, TIMER = -1 };
/* What is under way when time is over gets this long in an open loop. */
static const double LINGER_S = 10.0;

typedef struct {
    char *bytes;
    size_t length;
} request_t;

/* What comes next of an answer. */
typedef enum { HEAD, LENGTH, UNTIL_CLOSE, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER } part_t;

typedef struct {
    int fd;
    int busy;             /* a request is under way */
    const request_t *out; /* it, and how much of it is sent */
    size_t sent;
    double due_s; /* when it was to be sent */
    part_t part;
    char head[HEAD_BYTES + 1];
    size_t head_length;
    size_t left; /* bytes of the body or chunk, or characters of a line so far */
    int status;
    int closes;
} connection_t;

static struct sockaddr_in address;
static request_t *requests;
static size_t num_requests, next_request;
static connection_t *connections;
static int num_connections, epoll_fd, timer_fd = -1;
static double start_s, count_from_s, end_s;
static double *arrivals_s;
static size_t num_arrivals, next_due;
static float *latencies_s;
static size_t num_latencies, room;
static long statuses[STATUSES];
static long done_in_time;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static request_t read_request(const char *path) {
    FILE *file = fopen(path, "rb");
    request_t request;
    if (!file) die(path);
    fseek(file, 0, SEEK_END);
    request.length = (size_t)ftell(file);
    rewind(file);
    request.bytes = malloc(request.length);
    if (!request.bytes || fread(request.bytes, 1, request.length, file) != request.length) die(path);
    fclose(file);
    return request;
}

static double uniform(void) {
    /* xorshift64*; Vigna 2016, ACM TOMS 42 (4). */
    static uint64_t state = 88172645463325252ull;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return ((double)((state * 2685821657736338717ull) >> 11) + 0.5) / 9007199254740992.0;
}

static void plan_arrivals(double rate) {
    size_t most = (size_t)(rate * (end_s - start_s) * 1.2) + 1000;
    arrivals_s = malloc(most * sizeof *arrivals_s);
    if (!arrivals_s) die("arrivals");
    for (double at_s = start_s; num_arrivals < most; num_arrivals++) {
        at_s -= log(uniform()) / rate;
        if (at_s >= end_s) break;
        arrivals_s[num_arrivals] = at_s;
    }
}

static void open_connection(connection_t *one) {
    int yes = 1;
    one->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (one->fd < 0 || connect(one->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fcntl(one->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, one->fd, &event)) die("epoll_ctl");
}

static void watch_writes(connection_t *one, int wanted) {
    struct epoll_event event = {.events = EPOLLIN | (wanted ? EPOLLOUT : 0), .data.ptr = one};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, one->fd, &event);
}

static void end_request(connection_t *one, int status) {
    double done_s = now_s();
    int is_good = status >= 200 && status < 300;
    one->busy = 0;
    /* Whenever they were sent: what is on its way at the beginning makes up for what is at the end. */
    if (is_good && done_s >= count_from_s && done_s <= end_s) done_in_time++;
    if (one->due_s < count_from_s) return;
    statuses[status]++;
    if (!is_good) return;
    if (num_latencies == room) {
        room = room ? 2 * room : 1 << 16;
        latencies_s = realloc(latencies_s, room * sizeof *latencies_s);
        if (!latencies_s) die("latencies");
    }
    latencies_s[num_latencies++] = (float)(done_s - one->due_s);
}

static void reopen(connection_t *one) {
    close(one->fd);
    if (one->busy) end_request(one, BROKEN);
    open_connection(one);
}

static void send_more(connection_t *one) {
    int partial = one->sent > 0;
    while (one->sent < one->out->length) {
        ssize_t count = send(one->fd, one->out->bytes + one->sent, one->out->length - one->sent, MSG_NOSIGNAL);
        if (count < 0) {
            if (errno == EAGAIN) {
                watch_writes(one, 1);
                return;
            }
            /* It is told by the next read. */
            return;
        }
        one->sent += (size_t)count;
    }
    if (partial) watch_writes(one, 0);
}

static void begin_request(connection_t *one, double due_s) {
    one->busy = 1;
    one->due_s = due_s;
    one->out = &requests[next_request];
    next_request = (next_request + 1) % num_requests;
    one->sent = 0;
    one->part = HEAD;
    one->head_length = 0;
    one->closes = 0;
    send_more(one);
}

/* Begin what is due on a connection that is free. */
static void use(connection_t *one) {
    double at_s = now_s();
    if (one->busy) return;
    if (!arrivals_s) {
        if (at_s < end_s) begin_request(one, at_s);
    } else if (next_due < num_arrivals && arrivals_s[next_due] <= at_s) {
        begin_request(one, arrivals_s[next_due++]);
    }
}

static const char *header(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line && line[2] != '\r'; line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, name, length) && line[2 + length] == ':') {
            const char *value = line + 3 + length;
            return value + strspn(value, " \t");
        }
    return NULL;
}

/* Bytes of the head that `bytes` holds; sets what comes next once it is whole. */
static size_t take_head(connection_t *one, const char *bytes, size_t count) {
    size_t before = one->head_length, take = count < HEAD_BYTES - before ? count : HEAD_BYTES - before;
    memcpy(one->head + before, bytes, take);
    one->head[before + take] = 0;
    one->head_length += take;
    char *end = strstr(one->head + (before > 3 ? before - 3 : 0), "\r\n\r\n");
    if (!end) {
        if (one->head_length == HEAD_BYTES) {
            fprintf(stderr, "expected the head of an answer within %d bytes\n", HEAD_BYTES);
            exit(1);
        }
        return take;
    }
    size_t used = (size_t)(end + 4 - one->head) - before;
    end[4] = 0;
    one->status = atoi(one->head + 9);
    const char *length = header(one->head, "content-length"), *coding = header(one->head, "transfer-encoding");
    const char *connection = header(one->head, "connection");
    one->closes = connection && !strncasecmp(connection, "close", 5);
    one->head_length = 0;
    one->left = 0;
    if (coding && !strncasecmp(coding, "chunked", 7)) {
        one->part = CHUNK_SIZE;
    } else if (length || one->status == 204) {
        one->part = LENGTH;
        one->left = length ? strtoul(length, NULL, 10) : 0;
    } else {
        one->part = UNTIL_CLOSE;
    }
    return used;
}

/* One byte of a chunked body's framing; true at its end. */
static int take_framing(connection_t *one, char byte) {
    if (one->part == CHUNK_SIZE) {
        if (byte != '\n') {
            if (one->head_length < 32) one->head[one->head_length++] = byte;
            return 0;
        }
        one->head[one->head_length] = 0;
        one->head_length = 0;
        one->left = strtoul(one->head, NULL, 16);
        one->part = one->left ? CHUNK_DATA : TRAILER;
    } else if (one->part == CHUNK_END) {
        if (byte == '\n') one->part = CHUNK_SIZE;
    } else if (byte == '\n') {
        /* A trailer; an empty line ends it. */
        if (!one->left) return 1;
        one->left = 0;
    } else if (byte != '\r') {
        one->left++;
    }
    return 0;
}

/* Read an answer's bytes; true when it is whole. */
static int take(connection_t *one, const char *bytes, size_t count) {
    size_t place = 0;
    while (place < count || (one->part == LENGTH && !one->left)) {
        if (one->part == HEAD) {
            place += take_head(one, bytes + place, count - place);
            if (one->part != HEAD && one->status < 200) one->part = HEAD;
        } else if (one->part == LENGTH || one->part == CHUNK_DATA) {
            size_t used = count - place < one->left ? count - place : one->left;
            place += used;
            one->left -= used;
            if (!one->left && one->part == LENGTH) return 1;
            if (!one->left) one->part = CHUNK_END;
        } else if (one->part == UNTIL_CLOSE) {
            return 0;
        } else if (take_framing(one, bytes[place++])) {
            return 1;
        }
    }
    return 0;
}

static void read_answer(connection_t *one) {
    static char buffer[1 << 18];
    for (;;) {
        ssize_t count = recv(one->fd, buffer, sizeof buffer, 0);
        if (count < 0 && errno == EAGAIN) return;
        if (count <= 0) {
            if (one->busy && one->part == UNTIL_CLOSE && count == 0) end_request(one, one->status);
            reopen(one);
            use(one);
            return;
        }
        if (one->busy && take(one, buffer, (size_t)count)) {
            end_request(one, one->status);
            if (one->closes) reopen(one);
            use(one);
            return;
        }
    }
}

static void set_timer(void) {
    if (next_due >= num_arrivals) return;
    double at_s = arrivals_s[next_due];
    struct itimerspec when = {.it_value = {(time_t)at_s, (long)((at_s - floor(at_s)) * 1e9) + 1}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Give free connections what is due, the first free first, so that few are used where few are needed. */
static void serve_due(void) {
    int place = 0;
    double at_s = now_s();
    while (next_due < num_arrivals && arrivals_s[next_due] <= at_s) {
        while (place < num_connections && connections[place].busy) place++;
        /* All are taken: whichever is free first takes it. */
        if (place == num_connections) return;
        use(&connections[place]);
    }
    set_timer();
}

static int any_busy(void) {
    for (int index = 0; index < num_connections; index++)
        if (connections[index].busy) return 1;
    return 0;
}

static void run(void) {
    struct epoll_event events[EVENTS];
    for (;;) {
        double at_s = now_s();
        int is_over = at_s >= end_s && (!arrivals_s || (next_due >= num_arrivals && !any_busy()));
        if (is_over || at_s >= end_s + LINGER_S) return;
        int count = epoll_wait(epoll_fd, events, EVENTS, 50);
        for (int index = 0; index < count; index++) {
            connection_t *one = events[index].data.ptr;
            if (!one) {
                uint64_t rung;
                if (read(timer_fd, &rung, sizeof rung) < 0 && errno != EAGAIN) die("timer");
                continue;
            }
            if (events[index].events & EPOLLOUT) send_more(one);
            if (events[index].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_answer(one);
        }
        if (arrivals_s) serve_due();
    }
}

static int by_size(const void *one, const void *other) {
    float a = *(const float *)one, b = *(const float *)other;
    return (a > b) - (a < b);
}

static double quantile_ms(double quantile) {
    if (!num_latencies) return -1.0;
    size_t place = (size_t)ceil(quantile * (double)num_latencies);
    return 1e3 * (double)latencies_s[place ? place - 1 : 0];
}

static void report(double computed_s) {
    long unanswered = 0;
    double mean_s = 0;
    for (int index = 0; index < num_connections; index++)
        if (arrivals_s && connections[index].busy && connections[index].due_s >= count_from_s) unanswered++;
    if (arrivals_s) unanswered += (long)(num_arrivals - next_due);
    qsort(latencies_s, num_latencies, sizeof *latencies_s, by_size);
    for (size_t index = 0; index < num_latencies; index++) mean_s += (double)latencies_s[index];
    printf("{\"statuses\": {");
    const char *comma = "";
    for (int status = 0; status < STATUSES; status++)
        if (statuses[status]) {
            if (status == BROKEN) printf("%s\"broken\": %ld", comma, statuses[status]);
            else printf("%s\"%d\": %ld", comma, status, statuses[status]);
            comma = ", ";
        }
    printf("}, \"unanswered\": %ld, \"answered\": %zu, \"throughput\": %.6g, ", unanswered, num_latencies,
           (double)done_in_time / (end_s - count_from_s));
    printf("\"p50_ms\": %.6g, \"p95_ms\": %.6g, \"p99_ms\": %.6g, \"max_ms\": %.6g, \"mean_ms\": %.6g, ", quantile_ms(0.50),
           quantile_ms(0.95), quantile_ms(0.99), quantile_ms(1.0), num_latencies ? 1e3 * mean_s / (double)num_latencies : -1.0);
    printf("\"busy_share\": %.4f}\n", computed_s / (now_s() - start_s));
}

int main(int count, char **words) {
    if (count < 8) {
        fprintf(stderr, "usage: load HOST PORT CONNECTIONS WARM_UP_S SECONDS RATE REQUEST_FILE...\n");
        return 2;
    }
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)atoi(words[2]));
    if (inet_pton(AF_INET, words[1], &address.sin_addr) != 1) die("HOST: expected an IPv4 address");
    num_connections = atoi(words[3]);
    double rate = atof(words[6]);
    num_requests = (size_t)(count - 7);
    requests = calloc(num_requests, sizeof *requests);
    connections = calloc((size_t)num_connections, sizeof *connections);
    if (!requests || !connections) die("memory");
    for (size_t index = 0; index < num_requests; index++) requests[index] = read_request(words[7 + index]);

    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (int index = 0; index < num_connections; index++) open_connection(&connections[index]);
    start_s = now_s();
    count_from_s = start_s + atof(words[4]);
    end_s = count_from_s + atof(words[5]);
    if (rate > 0) {
        plan_arrivals(rate);
        timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
        if (timer_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &event)) die("timer");
        set_timer();
    } else {
        for (int index = 0; index < num_connections; index++) use(&connections[index]);
    }
    run();

    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    report((double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec));
    return 0;
}
