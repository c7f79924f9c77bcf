/* What holds a namespace open: the first process of every pod's sandbox, and of the node's own namespaces. It waits,
 * buries the orphans that fall to a first process, and ends when it is asked to. Built static: its image has nothing else. */
#include <signal.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

static void bury(int signal) {
  (void)signal;
  while (waitpid(-1, NULL, WNOHANG) > 0) {
  }
}

static void end(int signal) {
  (void)signal;
  _exit(0);
}

int main(void) {
  struct sigaction ends = {.sa_handler = end};
  struct sigaction buries = {.sa_handler = bury, .sa_flags = SA_NOCLDSTOP | SA_RESTART};

  if (sigaction(SIGTERM, &ends, NULL) != 0 || sigaction(SIGINT, &ends, NULL) != 0 || sigaction(SIGCHLD, &buries, NULL) != 0) {
    return 1;
  }
  bury(SIGCHLD); /* those that ended before */
  for (;;) {
    pause();
  }
}
