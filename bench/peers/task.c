/* The task of the bench's services on Docker: does nothing, and ends at once when it is told to. Linked statically: its
 * image has nothing else. */
#include <signal.h>

int main(void) {
    sigset_t set;
    int signal;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, 0);
    return sigwait(&set, &signal);
}
