// SPDX-License-Identifier: LGPL-2.1-or-later
/* The list of modules, with one on it. */
#ifdef MODULE_LAYOUT	/* since v4.5 */
struct mod_kallsyms { Elf64_Sym *symtab; unsigned int num_symtab; char *strtab; };
struct module_layout { void *base; unsigned int size; unsigned int text_size; };
#endif

struct module {
	int state;
	struct list_head list;
	char name[56];
#ifdef MODULE_LAYOUT
	struct module_layout core_layout, init_layout;
	struct mod_kallsyms *kallsyms;
#else
	void *module_init, *module_core;
	unsigned int init_size, core_size, init_text_size, core_text_size;
	Elf64_Sym *symtab;
	unsigned int num_symtab;
	char *strtab;
#endif
};

static struct list_head modules __attribute__((used));
static struct module po_mod = { .name = "po_mod" };
static Elf64_Sym module_symtab[ARRAY_SIZE(module_symbols) + 1];
static char module_strtab[64];
#ifdef MODULE_LAYOUT
static struct mod_kallsyms module_kallsyms = {
	module_symtab, ARRAY_SIZE(module_symtab), module_strtab
};
#endif

static void init_module_list(void)
{
	unsigned int at = 1, size = __stop_module_text - __start_module_text;

	for (unsigned int i = 0; i < ARRAY_SIZE(module_symbols); i++) {
		module_symtab[i + 1] = (Elf64_Sym){
			.st_name = at, .st_value = module_symbols[i].address, .st_shndx = 1
		};
		at += sprintf(module_strtab + at, "%s", module_symbols[i].name) + 1;
	}
#ifdef MODULE_LAYOUT
	po_mod.core_layout = (struct module_layout){ __start_module_text, size, size };
	po_mod.kallsyms = &module_kallsyms;
#else
	po_mod.module_core = __start_module_text;
	po_mod.core_size = po_mod.core_text_size = size;
	po_mod.symtab = module_symtab;
	po_mod.num_symtab = ARRAY_SIZE(module_symtab);
	po_mod.strtab = module_strtab;
#endif
	modules.next = modules.prev = &po_mod.list;
	po_mod.list.next = po_mod.list.prev = &modules;
}
