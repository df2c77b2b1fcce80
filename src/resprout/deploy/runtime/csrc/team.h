/* A team of threads that do the same pass together, each its part, meeting at barriers.
 *
 * Between passes the others spin for some microseconds and then sleep, so that an idle network takes no processor.
 */
#ifndef RS_TEAM_H
#define RS_TEAM_H

typedef struct rs_team rs_team;
typedef void rs_pass(void *what, int part);

rs_team *rs_team_new(int threads, rs_pass *pass, void *what); /* NULL: the system refuses a thread, or is out of memory */
void rs_team_free(rs_team *team);
void rs_team_run(rs_team *team);  /* pass(what, part) on every thread; the caller is part 0 */
void rs_team_meet(rs_team *team); /* within a pass: wait for all */

#endif
