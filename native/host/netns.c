// netns.c: see netns.h. setns and unshare happen on threads of their own, which end right after: no other thread
// of the process ever leaves the node's namespace.
#include "netns.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef NSFS_MAGIC
#define NSFS_MAGIC 0x6e736673
#endif
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

typedef struct Job { const char *path; bool create; void (*run)(void *); void *argument; int result; const char *step; } Job;

static void *job_thread(void *argument) {
  Job *job = argument;
  if (job->create) {
    job->step = "unshare";
    if (unshare(CLONE_NEWNET) < 0) goto failed;
    job->step = "mount";
    if (mount("/proc/thread-self/ns/net", job->path, "none", MS_BIND, NULL) < 0) goto failed;
    return NULL;
  }
  if (job->path) {
    job->step = "open namespace";
    int fd = open(job->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) goto failed;
    job->step = "setns";
    int result = setns(fd, CLONE_NEWNET);
    close(fd);
    if (result < 0) goto failed;
  }
  job->run(job->argument);
  return NULL;
failed:
  job->result = errno;
  return NULL;
}

static bool run_job(Job *job, char *error, size_t error_size) {
  pthread_t thread;
  job->step = "thread";
  job->result = pthread_create(&thread, NULL, job_thread, job);
  if (job->result == 0) pthread_join(thread, NULL);
  if (job->result == 0) return true;
  snprintf(error, error_size, "%s %s: %s", job->step, job->path ? job->path : "", strerror(job->result));
  return false;
}

bool netns_run(const char *path, void (*run)(void *), void *argument, char *error, size_t error_size) {
  Job job = {.path = path, .run = run, .argument = argument};
  return run_job(&job, error, error_size);
}

bool netns_exists(const char *path) {
  struct statfs fs;
  return statfs(path, &fs) == 0 && (uint32_t)fs.f_type == NSFS_MAGIC;
}

bool netns_create(const char *path, char *error, size_t error_size) {
  if (netns_exists(path)) return true;
  int fd = open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0444);
  if (fd < 0) {
    snprintf(error, error_size, "create %s: %s", path, strerror(errno));
    return false;
  }
  close(fd);
  Job job = {.path = path, .create = true};
  return run_job(&job, error, error_size);
}

void netns_remove(const char *path) {
  umount2(path, MNT_DETACH);
  unlink(path);
}

int tap_open(const char *name) {
  int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return -errno;
  struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  int header_size = sizeof(VnetHeader);
  unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
  if (ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &header_size) < 0 || ioctl(fd, TUNSETPERSIST, 1) < 0) {
    int result = -errno;
    close(fd);
    return result;
  }
  // USO needs Linux 6.2; without TSO a TAP still works, slowly.
  if (ioctl(fd, TUNSETOFFLOAD, offloads | TUN_F_USO4 | TUN_F_USO6) < 0) (void)!ioctl(fd, TUNSETOFFLOAD, offloads);
  return fd;
}

bool link_has_mac(const char *name, const uint8_t mac[6]) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  struct ifreq request = {0};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  bool same = ioctl(fd, SIOCGIFHWADDR, &request) == 0 && memcmp(request.ifr_hwaddr.sa_data, mac, 6) == 0;
  close(fd);
  return same;
}

bool sysctl_write(const char *name, const char *value) {
  char path[256] = "/proc/sys/";
  size_t at = strlen(path);
  for (; *name && at < sizeof path - 1; name++) path[at++] = *name == '.' ? '/' : *name;
  path[at] = 0;
  if (strstr(path, "..") || strstr(path, "//")) return false;
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t written = write(fd, value, strlen(value));
  close(fd);
  return written >= 0;
}

bool sysctl_interface(const char *interface, const char *name, const char *value) {
  char path[256];
  snprintf(path, sizeof path, "/proc/sys/net/ipv4/conf/%s/%s", interface, name);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t written = write(fd, value, strlen(value));
  close(fd);
  return written >= 0;
}
