// main.c: skein-datapath: the data plane process of one node. It holds tables and forwards; it decides no policy.
//
//   skein-datapath --run-dir DIR [--flows N]   run (one per directory: the lock file says so)
//   skein-datapath --probe                     what this kernel offers, one "name\tok\tdetail" a line
//   skein-datapath --abi                       sizes and offsets of the frame structs, as JSON
//
// SIGTERM ends it like SIGKILL does: devices and namespaces stay, a new process takes over. Only a destroy frame removes.
#include "engine/control.h"
#include "host/netns.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/udp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FLOWS_DEFAULT = 65536 };
static Engine engine;
static Resolver resolver;
static Control control;

static void print_abi(void) {
  printf("{\"abi\":%d,\"structs\":{", ABI_VERSION);
  const char *struct_separator = "";
#define PRINT_FIELD(type, name, array) printf("%s\"%s\":[%zu,%zu]", separator, #name, offsetof(Current, name), sizeof(((Current *)0)->name)); separator = ",";
#define PRINT_STRUCT(s) { \
    typedef s Current; \
    const char *separator = ""; \
    printf("%s\"%s\":{\"size\":%zu,\"fields\":{", struct_separator, #s, sizeof(Current)); \
    s##_FIELDS(PRINT_FIELD) \
    printf("}}"); \
    struct_separator = ","; \
    (void)separator; \
  }
  ABI_STRUCTS(PRINT_STRUCT)
  printf("}}\n");
}

static void finding(const char *name, bool ok, const char *detail) { printf("%s\t%d\t%s\n", name, ok, detail); }

static int probe(void) {
  bool tun = access("/dev/net/tun", R_OK | W_OK) == 0;
  finding("tun", tun, tun ? "/dev/net/tun is there" : "no /dev/net/tun: nothing works without it");
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), on = 1, size = 1000;
  bool segment = setsockopt(fd, 17, 103, &size, sizeof size) == 0, gro = setsockopt(fd, 17, 104, &on, sizeof on) == 0;
  finding("udp_segment", segment, segment ? "one send a super-frame" : "one send a packet (Linux before 4.18)");
  finding("udp_gro", gro, gro ? "received packets come glued" : "received packets come one by one (Linux before 5.0)");
  close(fd);
  bool tunnel = tunnel_supported();
  finding("udp_tunnel_gso", tunnel, tunnel ? "super-frames leave whole" : "super-frames are cut before they leave (Linux before 6.17)");
  bool root = geteuid() == 0;
  finding("root", root, root ? "may make namespaces and devices" : "needs CAP_NET_ADMIN and CAP_SYS_ADMIN");
  bool nft = system("nft list tables >/dev/null 2>&1") == 0;
  finding("nft", nft, nft ? "published ports and masquerade by nft" : "nft missing or refused: no published ports, no egress");
  return tun && root && nft ? 0 : 1;
}

// The lock is held for the life of the process; its descriptor is never closed.
static bool take_lock(const char *run_directory) {
  char path[300], text[32];
  snprintf(path, sizeof path, "%s/datapath.lock", run_directory);
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0) return false;
  snprintf(path, sizeof path, "%s/datapath.pid", run_directory);
  int pid_fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  int length = snprintf(text, sizeof text, "%d\n", getpid());
  // Written over the one before and then cut: that takes no room on a full file system. Nor is it a reason not to run.
  if (pid_fd < 0 || write(pid_fd, text, (size_t)length) != length || ftruncate(pid_fd, length) < 0)
    fprintf(stderr, "skein-datapath: %s: %s\n", path, strerror(errno));
  if (pid_fd >= 0) close(pid_fd);
  return true;
}

// All room is taken now: a page that is first touched when the file system has become full ends the process (SIGBUS).
static void *map_flow_file(const char *path, size_t size) {
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return MAP_FAILED;
  struct stat status;
  // A file of another size is of another configuration; what it holds would not fit.
  bool ok = fstat(fd, &status) == 0 && ((size_t)status.st_size == size || ftruncate(fd, 0) == 0) && ftruncate(fd, (off_t)size) == 0;
  int result = ok ? posix_fallocate(fd, 0, (off_t)size) : errno;
  void *memory = result == 0 ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
  if (result != 0) {
    (void)!ftruncate(fd, 0);
    errno = result;
  }
  close(fd);
  return memory;
}

// The flows of the process before this one, if they can be had. *saved: those of this one will be had by the next.
static void *map_flows(const char *run_directory, uint32_t capacity, bool *saved) {
  char path[300];
  size_t size = flow_memory_size(capacity);
  snprintf(path, sizeof path, "%s/flows", run_directory);
  void *memory = map_flow_file(path, size);
  *saved = memory != MAP_FAILED;
  if (*saved) return memory;
  fprintf(stderr, "skein-datapath: %s: %s; connections through virtual addresses will not outlive this process\n", path, strerror(errno));
  memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

static void read_boot_id(char out[40]) {
  memset(out, 0, 40);
  int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t size = read(fd, out, 36);
  if (size < 0) memset(out, 0, 40);
  close(fd);
}

static int run(const char *run_directory, uint32_t flows) {
  char path[300], boot_id[40], error[512];
  // Blocked before any thread starts, so that all inherit it and only the signal descriptor sees them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  sigaddset(&signals, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &signals, NULL);
  struct rlimit limit = {1 << 18, 1 << 18};
  setrlimit(RLIMIT_NOFILE, &limit);
  mkdir(run_directory, 0755);
  snprintf(path, sizeof path, "%s/netns", run_directory);
  mkdir(path, 0755);
  if (!take_lock(run_directory)) {
    fprintf(stderr, "skein-datapath: %s is locked by another data plane (or not writable)\n", run_directory);
    return 3;
  }
  bool saved;
  void *memory = map_flows(run_directory, flows, &saved);
  read_boot_id(boot_id);
  if (!memory || !engine_init(&engine, memory, flows, boot_id)) {
    fprintf(stderr, "skein-datapath: cannot start engine: %s\n", strerror(errno));
    return 1;
  }
  engine.program.flows.unsaved = !saved;
  resolver.send_miss = control_send_miss;
  resolver.context = &control;
  if (!control_init(&control, &engine, &resolver, run_directory, error, sizeof error)) {
    fprintf(stderr, "skein-datapath: %s\n", error);
    return 1;
  }
  if (!resolver_start(&resolver) || !engine_start(&engine)) {
    fprintf(stderr, "skein-datapath: cannot start threads\n");
    return 1;
  }
  control_run(&control);
  return 0;
}

int main(int count, char **arguments) {
  const char *run_directory = NULL;
  uint32_t flows = FLOWS_DEFAULT;
  for (int i = 1; i < count; i++) {
    if (strcmp(arguments[i], "--abi") == 0) return print_abi(), 0;
    if (strcmp(arguments[i], "--probe") == 0) return probe();
    if (strcmp(arguments[i], "--run-dir") == 0 && i + 1 < count) run_directory = arguments[++i];
    else if (strcmp(arguments[i], "--flows") == 0 && i + 1 < count) flows = (uint32_t)strtoul(arguments[++i], NULL, 10);
    else run_directory = NULL, i = count;
  }
  if (!run_directory || strlen(run_directory) > 90 || flows < 64 || flows > 1 << 22) {
    fprintf(stderr, "usage: skein-datapath --run-dir DIR [--flows N] | --probe | --abi\n");
    return 2;
  }
  setvbuf(stderr, NULL, _IOLBF, 0);
  return run(run_directory, flows);
}
