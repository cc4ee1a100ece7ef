// Compiles a profile with libseccomp, for the comparison in oracle_test.go.
//
// Reads from standard input, and writes the program to standard output:
//
//	default ACTION
//	arch NAME
//	optimize
//	rule ACTION NAME COUNT [ARGUMENT OPERATOR VALUE VALUE]...
//
// Actions are numbers as libseccomp has them. A system call that libseccomp
// does not know and a rule that it refuses end the program with a message;
// "known NAME" answers with the line "1" or "0" instead.

#include <inttypes.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void die(const char *what, const char *about, int rc)
{
	fprintf(stderr, "%s %s: %s\n", what, about, strerror(-rc));
	exit(1);
}

static enum scmp_compare operator(const char *name)
{
	static const struct { const char *name; enum scmp_compare op; } all[] = {
		{ "SCMP_CMP_NE", SCMP_CMP_NE }, { "SCMP_CMP_LT", SCMP_CMP_LT },
		{ "SCMP_CMP_LE", SCMP_CMP_LE }, { "SCMP_CMP_EQ", SCMP_CMP_EQ },
		{ "SCMP_CMP_GE", SCMP_CMP_GE }, { "SCMP_CMP_GT", SCMP_CMP_GT },
		{ "SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ },
	};
	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (strcmp(all[i].name, name) == 0)
			return all[i].op;
	die("operator", name, 0);
	return 0;
}

static void rule(scmp_filter_ctx ctx)
{
	struct scmp_arg_cmp args[6];
	char name[64], op[32];
	uint32_t action;
	unsigned count;
	int rc;

	if (scanf("%" SCNu32 " %63s %u", &action, name, &count) != 3 || count > 6)
		die("rule", "syntax", 0);
	for (unsigned i = 0; i < count; i++) {
		if (scanf("%u %31s %" SCNu64 " %" SCNu64, &args[i].arg, op, &args[i].datum_a, &args[i].datum_b) != 4)
			die("rule", name, 0);
		args[i].op = operator(op);
	}
	int number = seccomp_syscall_resolve_name(name);
	if (number == __NR_SCMP_ERROR)
		die("unknown system call", name, 0);
	rc = seccomp_rule_add_array(ctx, action, number, count, args);
	if (rc < 0)
		die("rule for", name, rc);
}

int main(void)
{
	scmp_filter_ctx ctx = NULL;
	char word[64];
	uint32_t action;
	int rc;

	while (scanf("%63s", word) == 1) {
		if (strcmp(word, "known") == 0 && scanf("%63s", word) == 1) {
			puts(seccomp_syscall_resolve_name(word) == __NR_SCMP_ERROR ? "0" : "1");
		} else if (strcmp(word, "default") == 0 && scanf("%" SCNu32, &action) == 1) {
			ctx = seccomp_init(action);
			if (ctx == NULL)
				die("default action", "", 0);
		} else if (strcmp(word, "arch") == 0 && scanf("%63s", word) == 1) {
			rc = seccomp_arch_add(ctx, seccomp_arch_resolve_name(word));
			if (rc < 0 && rc != -17 /* EEXIST */)
				die("architecture", word, rc);
		} else if (strcmp(word, "optimize") == 0) {
			rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
			if (rc < 0)
				die("optimize", "", rc);
		} else if (strcmp(word, "rule") == 0) {
			rule(ctx);
		} else {
			die("word", word, 0);
		}
	}
	if (ctx == NULL)
		return 0;
	rc = seccomp_export_bpf(ctx, STDOUT_FILENO);
	if (rc < 0)
		die("export", "", rc);
	seccomp_release(ctx);
	return 0;
}
