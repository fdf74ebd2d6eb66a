// SPDX-License-Identifier: LGPL-2.1-or-later
/* printf() with the conversions that print_page_owner() and snprint_stack_trace() use. */

#ifdef PAGE_FLAG_FIELDS	/* since v5.12 */
struct printf_spec { unsigned int type : 8, width : 24, flags : 8, base : 8; int precision : 16; };
static const struct printf_spec default_dec_spec = { .base = 10, .precision = -1 };
struct page_flags_fields {
	int width, shift, mask;
	const struct printf_spec *spec;
	const char *name;
};
static const struct page_flags_fields pff[] = {
#if MEMORY_MODEL == SPARSEMEM
	{ 19, 45, (1 << 19) - 1, &default_dec_spec, "section" },
	{ NODES_SHIFT, 39, (1 << NODES_SHIFT) - 1, &default_dec_spec, "node" },
	{ 2, 37, 3, &default_dec_spec, "zone" },
#elif MEMORY_MODEL == SPARSEMEM_VMEMMAP
	{ 0, 0, 0, &default_dec_spec, "section" },
	{ NODES_SHIFT, 58, (1 << NODES_SHIFT) - 1, &default_dec_spec, "node" },
	{ 2, 56, 3, &default_dec_spec, "zone" },
#else
	{ 0, 0, 0, &default_dec_spec, "section" },
	{ 0, 0, 0, &default_dec_spec, "node" },
	{ 2, 62, 3, &default_dec_spec, "zone" },
#endif
};
#endif

static char *format_page_flags(char *buffer, unsigned long flags)
{
	unsigned long main_flags = flags & ((1UL << __NR_PAGEFLAGS) - 1);

	*buffer = 0;
#ifdef PGP_PRINTS_THE_NUMBER	/* since v5.16 */
	buffer += sprintf(buffer, "0x%lx(", flags);
#endif
	if (main_flags)
		buffer = format_flags(buffer, main_flags, pageflag_names);
#ifdef PAGE_FLAG_FIELDS
	bool append = main_flags != 0;
	for (size_t i = 0; i < ARRAY_SIZE(pff); i++) {
		if (!pff[i].width)
			continue;
		buffer += sprintf(buffer, "%s%s=%lu", append ? "|" : "", pff[i].name,
				  flags >> pff[i].shift & (unsigned long)pff[i].mask);
		append = true;
	}
#endif
#ifdef PGP_PRINTS_THE_NUMBER
	buffer += sprintf(buffer, ")");
#endif
	return buffer;
}

static void kprintf(FILE *out, const char *format, ...)
{
	char text[1024], piece[32];
	va_list args;

	va_start(args, format);
	while (*format) {
		size_t length = 1;
		if (*format != '%') {
			fputc(*format++, out);
			continue;
		}
		if (!strncmp(format, "%pGg", 4) || !strncmp(format, "%pGp", 4)) {
			if (format[3] == 'g')
				format_flags(text, *va_arg(args, gfp_t *), gfpflag_names);
			else
				format_page_flags(text, *va_arg(args, unsigned long *));
			fputs(text, out);
			format += 4;
			continue;
		}
		if (!strncmp(format, "%pS", 3)) {
			sprint_symbol(text, va_arg(args, unsigned long));
			fputs(text, out);
			format += 3;
			continue;
		}
		if (!strncmp(format, "%p", 2)) {
			fprintf(out, "%016lx", va_arg(args, unsigned long));
			format += 2;
			continue;
		}
		if (!strncmp(format, "%*c", 3)) {
			int width = va_arg(args, int);
			fprintf(out, "%*c", width, va_arg(args, int));
			format += 3;
			continue;
		}
		while (!strchr("uxds", format[length]))
			length++;
		length++;
		/* The kernel prints 0x0, where the C library prints 0. */
		if (format[1] == '#')
			snprintf(piece, sizeof(piece), "0x%%%.*s", (int)length - 2, format + 2);
		else
			snprintf(piece, sizeof(piece), "%.*s", (int)length, format);
		if (format[length - 1] == 's')
			fprintf(out, piece, va_arg(args, char *));
		else if (strchr(piece, 'l'))
			fprintf(out, piece, va_arg(args, unsigned long));
		else
			fprintf(out, piece, va_arg(args, unsigned int));
		format += length;
	}
	va_end(args);
}
