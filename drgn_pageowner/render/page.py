from drgn_pageowner.page_info import PageInfo


def page_json(info: PageInfo):
    yield ""


def page_text(info: PageInfo):
    yield ""
