/* The runtime without Python: runs the networks of a file that test_runtime_native.py wrote and compares with the outputs in it.
 *
 * Every array lies in memory of its own and of just its size, so that a sanitizer sees a read beyond it.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "net.h"

static FILE *file;

static int32_t number(void)
{
    int32_t n;
    if (fread(&n, sizeof n, 1, file) != 1)
        exit((puts("the file is too short"), 2));
    return n;
}

/* An array with its length in bytes before it; NULL where that is -1. */
static void *array(void)
{
    int32_t bytes = number();
    void *p = bytes < 0 ? NULL : malloc((size_t)bytes + (bytes == 0));
    if (p && fread(p, 1, (size_t)bytes, file) != (size_t)bytes)
        exit((puts("the file is too short"), 2));
    return p;
}

/* One network in one form: 0 if its outputs are right. */
static int check(int many, int threads, double seconds, int values, const int32_t (*shapes)[3], int ops, const rs_op *list, const float *x,
                 const float *wanted, int images)
{
    char why[200];
    int each = shapes[values - 1][0] * shapes[values - 1][1] * shapes[values - 1][2], wrong = 0;
    rs_net *net = rs_net_new(rs_best_isa(), many, threads, seconds, values, shapes, ops, list, why, sizeof why);
    if (!net)
        return puts(why), 1;
    float *y = malloc(sizeof *y * (size_t)(images * each));
    for (int twice = 0; twice < 2; twice++) {
        rs_net_run(net, x, y, images);
        for (int i = 0; i < images * each; i++)
            if (!(fabsf(y[i] - wanted[i]) <= 1e-4f * (1 + fabsf(wanted[i]))) && !wrong++)
                printf("many %d, threads %d, trials %g s: number %d is %g, not %g\n", many, threads, seconds, i, y[i], wanted[i]);
    }
    for (int i = 0; i < ops; i++) {
        rs_conv_info info;
        rs_net_info(net, i, 1, &info);
    }
    free(y);
    rs_net_free(net);
    return wrong > 0;
}

int main(int argc, char **argv)
{
    file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (!file)
        return puts("name a file"), 2;
    int wrong = 0, lanes = rs_lanes(rs_best_isa());
    for (int networks = number(); networks > 0; networks--) {
        int values = number(), ops = number(), images = number();
        int32_t(*shapes)[3] = array();
        rs_op *list = malloc(sizeof *list * (size_t)ops + 1);
        for (int i = 0; i < ops; i++) {
            rs_op *head = array(); /* the fields before the arrays, as they are */
            list[i] = *head;
            free(head);
            list[i].row = array(), list[i].place = array(), list[i].value = array(), list[i].bias = array();
        }
        float *x = array(), *y = array();
        for (int form = 0; form < 8; form++) {
            int many = form & 1, n = many ? images / lanes * lanes : images;
            wrong += check(many, 1 + (form >> 1 & 1), form & 4 ? 0.001 : 0, values, (const int32_t(*)[3])shapes, ops, list, x, y, n);
        }
        for (int i = 0; i < ops; i++)
            free((void *)list[i].row), free((void *)list[i].place), free((void *)list[i].value), free((void *)list[i].bias);
        free(shapes), free(list), free(x), free(y);
    }
    fclose(file);
    puts(rs_best_isa());
    return wrong > 0;
}
