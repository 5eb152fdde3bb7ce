import unittest

from cart import pages, total


class CartTest(unittest.TestCase):
    def test_total(self):
        items = [{"price": 250, "quantity": 2}, {"price": 100, "quantity": 1}]
        self.assertEqual(total(items), 600)
        self.assertEqual(total(items, discount_percent=10), 540)

    def test_pages(self):
        self.assertEqual(pages([1, 2, 3, 4], 2), [[1, 2], [3, 4]])


if __name__ == "__main__":
    unittest.main()
