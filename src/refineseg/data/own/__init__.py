"""Readers of your own annotations: folders, COCO, labelme, CVAT, Label Studio, YOLO, pairs."""
