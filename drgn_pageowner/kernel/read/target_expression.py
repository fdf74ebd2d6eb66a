# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make drgn expressions for the targets of words."""

from __future__ import annotations

from drgn import Object
from drgn.helpers.linux.mm import page_to_pfn, pfn_to_virt

from drgn_pageowner.kernel.dump.damage import DAMAGE, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.arch import arch_of
from drgn_pageowner.kernel.linux.sections import find_sections
from drgn_pageowner.kernel.linux.translate import direct_map
from drgn_pageowner.kernel.linux.user_tables import Mapping
from drgn_pageowner.model.heap import Word

__all__ = ("TargetExpressions",)


class TargetExpressions:
    """
    Makes drgn expressions for addresses in the targets of words, from the expressions for the
    words.

    Where drgn does not know the direct map (i386) or the memmap (SPARSEMEM without a vmemmap), its
    helpers are replaced by arithmetic.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._direct = direct_map(kernel)
        self._mark = arch_of(kernel).address_mark
        self._knows_direct = self._knows_memmap = True
        try:
            pfn_to_virt(kernel.prog, 0)
        except NotImplementedError:
            self._knows_direct = False
        try:
            page_to_pfn(Object(kernel.prog, "struct page *", value=0))
        except (NotImplementedError, *DAMAGE) as error:
            unless_mistaken(error)
            self._knows_memmap = False

    def of(self, word: Word) -> str | None:
        """
        Return the expression for an address in the target of *word*; ``None`` if there is no
        expression for the word itself (:attr:`Word.expression`), or for its target.
        """
        expression = word.expression
        if expression is None:
            return None
        if word.by == "per-CPU pointer":
            return f"per_cpu_ptr({expression}, 0)"
        if word.by == "PFN":
            return self._of_pfn(expression)
        if word.by == "physical address":
            if self._mark and word.value >= self._mark:
                expression = f"({expression} - {self._mark:#x})"
            return self._of_phys(expression)
        if word.by == "struct page":
            return self._of_page(expression, word.value)
        return expression

    def of_mapping(self, mapping: Mapping, expression: str) -> str:
        """
        Return the expression for the address of a page that a page table of a process maps.

        :param expression: Expression for the page table entry.
        """
        if self._knows_direct:
            mm = "mm" if mapping.task.mm else "active_mm"
            pid = int(mapping.task.pid)
            return (
                f"phys_to_virt(prog, follow_phys(find_task(prog, {pid}).{mm}, "
                f"{mapping.address:#x}))"
            )
        inside = mapping.phys - (mapping.value & mapping.mask)
        return self._pointer(
            f"(int({expression}) & {mapping.mask:#x}) + {self._direct + inside:#x}"
        )

    def _of_pfn(self, expression: str) -> str:
        if self._knows_direct:
            return f"pfn_to_virt(prog, {expression})"
        return self._pointer(f"int({expression}) * {self._kernel.page_size} + {self._direct:#x}")

    def _of_phys(self, expression: str) -> str:
        if self._knows_direct:
            return f"phys_to_virt(prog, {expression})"
        return self._pointer(f"int({expression}) + {self._direct:#x}")

    def _of_page(self, expression: str, value: int) -> str | None:
        if self._knows_memmap:
            # The word may point to a member of the struct page.
            page = f'cast("struct page *", {expression})'
            if expression.startswith('Object(prog, "struct page *"'):
                page = expression
            if self._knows_direct:
                return f"page_to_virt({page})"
            return self._of_pfn(f"page_to_pfn({page})")
        size = self._kernel.struct_page_size
        for section in find_sections(self._kernel):
            end = section.memmap + (section.end_pfn - section.start_pfn) * size
            if section.memmap <= value < end:
                start = self._direct + section.start_pfn * self._kernel.page_size
                return self._pointer(
                    f"(int({expression}) - {section.memmap:#x}) // {size}"
                    f" * {self._kernel.page_size} + {start:#x}"
                )
        return None

    def _pointer(self, value: str) -> str:
        return f'Object(prog, "void *", value={value})'
