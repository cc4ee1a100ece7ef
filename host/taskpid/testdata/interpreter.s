# The code of the program that package taskpid builds, for GNU as. It performs
# the system calls of a table, whose layout is type call in program.go.
#
# as interpreter.s -o i.o && objcopy -O binary -j .text i.o i.bin

	.intel_syntax noprefix
	.text
	mov	rsi, [rsp + 8]		# argv[0]
	mov	edi, 15			# PR_SET_NAME
	mov	eax, 157		# prctl
	syscall
	lea	rbx, [rip + table]
first:
	xor	r12d, r12d		# how often it was repeated
again:
	mov	rax, [rbx]
	mov	rdi, [rbx + 8]
	mov	rsi, [rbx + 16]
	add	rsi, r12
	mov	rdx, [rbx + 24]
	mov	r10, [rbx + 32]
	mov	r8, [rbx + 40]
	syscall
	mov	ecx, [rbx + 48]
	cmp	ecx, 3			# forever
	je	again
	test	rax, rax
	js	failed
	cmp	ecx, 2			# untilError
	jne	next
	inc	r12
	jmp	again
failed:
	test	ecx, ecx		# mandatory
	jnz	next
	push	rax
	push	qword ptr [rbx]
	mov	edi, 3			# statusFD
	mov	rsi, rsp
	mov	edx, 16
	mov	eax, 1			# write
	syscall
	mov	edi, 1
	mov	eax, 231		# exit_group
	syscall
next:
	add	rbx, 56
	jmp	first
	.balign	8, 0xcc
table:
