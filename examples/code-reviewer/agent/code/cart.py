"""A shopping cart's prices and pages."""


def total(items, discount_percent=0):
    """Returns the price of all items in cents, less the discount."""
    if not 0 <= discount_percent <= 100:
        raise ValueError("discount_percent must be from 0 to 100")
    subtotal = sum(item["price"] * item["quantity"] for item in items)
    return subtotal - subtotal * discount_percent // 100


def pages(items, size):
    """Splits items into pages of the given size. The last page may be shorter."""
    if size < 1:
        raise ValueError("size must be 1 or more")
    return [items[at : at + size] for at in range(0, len(items) - size + 1, size)]
